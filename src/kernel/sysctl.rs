//! Settings of `/proc/sys/net` for gateways, and how they were before.
//!
//! The original of a setting is the one thing the kernel does not remember, so it is on disk before the setting is
//! changed: whatever ends the daemon, the next one with an emptier configuration puts it back. Forwarding drags others
//! along (every device's own switch, `accept_redirects`): these are kept and put back with it.
//!
//! Blocks; runs beside the loop.

use super::error::{Error, Goal, Refusal};
use crate::desired::gateway::{Setting, Sysctl};
use crate::model::{Ifindex, LinkName};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

const OP: &str = "sysctls";
const ROOT: &str = "/proc/sys/net";
/// In the state directory.
const FILE: &str = "sysctl.json";
/// `net.ipv4.ip_forward`, which sets that of every device.
const SWITCH4: &str = "ipv4/ip_forward";
const DEVICE_FORWARDING: &str = "/forwarding";

/// A setting as it was before us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Original {
    /// Below `/proc/sys/net`.
    path: String,
    value: String,
    /// Of the device in the path, which may be another one by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ifindex: Option<u32>,
    /// Changed by the kernel along with the setting of this path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    along_with: Option<String>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    settings: Vec<Original>,
}

impl Kept {
    fn has(&self, path: &str) -> bool {
        self.settings.iter().any(|o| o.path == path)
    }
}

impl Original {
    /// The device that the setting is of.
    fn device(&self) -> Option<LinkName> {
        self.ifindex?;
        LinkName::new(self.path.split('/').nth(2)?).ok()
    }
}

/// Whether anything of an earlier run is still to be put back.
pub fn remains(state_directory: &Path) -> bool {
    state_directory.join(FILE).exists()
}

/// Makes these settings so, and every other that was changed for a gateway as it was.
pub fn apply(state_directory: &Path, wants: &[Sysctl]) -> Result<(), Error> {
    let file = state_directory.join(FILE);
    let mut kept = read_kept(&file)?;
    make_so(&file, &mut kept, wants)?;
    let wanted: Vec<String> = wants.iter().map(|want| place(&want.setting).0).collect();
    if restore(&file, &mut kept, |path| {
        wanted.iter().any(|wanted| wanted == path)
    })? {
        // The switch for all devices, put back, takes along devices that are still to forward.
        make_so(&file, &mut kept, wants)?;
    }
    Ok(())
}

fn make_so(file: &Path, kept: &mut Kept, wants: &[Sysctl]) -> Result<(), Error> {
    let mut writes = Vec::new();
    for want in wants {
        let (path, device) = place(&want.setting);
        // A device that went meanwhile: its network is looked at again.
        if device.is_some_and(|(name, index)| !is_there(&name, index)) {
            continue;
        }
        let Some(now) = read(&path)? else { continue };
        let ours = kept.has(&path);
        if now == want.value.to_string() || (!ours && want.instead_of.is_some_and(|v| now != v.to_string())) {
            continue;
        }
        if !ours {
            let ifindex = device.map(|(_, index)| index.get());
            let along = dragged_along(&want.setting, &path, kept)?;
            kept.settings.extend(along);
            kept.settings.push(Original {
                path: path.clone(),
                value: now,
                ifindex,
                along_with: None,
            });
        }
        writes.push((path, want.value.to_string()));
    }
    if !writes.is_empty() {
        write_kept(file, kept)?;
    }
    writes.iter().try_for_each(|(path, value)| write(path, value))
}

/// Puts back whatever is not `wanted`, the last change first. False if there was nothing.
fn restore(file: &Path, kept: &mut Kept, wanted: impl Fn(&str) -> bool) -> Result<bool, Error> {
    let goes = |o: &Original| !wanted(o.along_with.as_deref().unwrap_or(&o.path));
    if !kept.settings.iter().any(goes) {
        return Ok(false);
    }
    for original in kept.settings.iter().rev().filter(|o| goes(o)) {
        let device = original.device();
        let same_device = original.ifindex.is_none_or(|index| {
            device
                .zip(Ifindex::new(index))
                .is_some_and(|(name, index)| is_there(&name, index))
        });
        // A device that forwards because all do goes off with the switch.
        let stays = device.is_some()
            && original.path.ends_with(DEVICE_FORWARDING)
            && original.path.starts_with("ipv4/")
            && wanted(SWITCH4);
        if same_device && !stays && read(&original.path)?.is_some_and(|now| now != original.value) {
            write(&original.path, &original.value)?;
        }
    }
    kept.settings.retain(|o| !goes(o));
    write_kept(file, kept)?;
    Ok(true)
}

/// What the kernel changes with a host-wide switch (`inet_forward_change`, `addrconf_forward_change`), but for what was
/// changed for a gateway already: how that was is known.
fn dragged_along(setting: &Setting, path: &str, kept: &Kept) -> Result<Vec<Original>, Error> {
    let (family, others): (&str, &[&str]) = match setting {
        Setting::Forward4 => (
            "ipv4",
            &["ipv4/conf/all/accept_redirects", "ipv4/conf/default/forwarding"],
        ),
        Setting::Forward6 => ("ipv6", &["ipv6/conf/default/forwarding"]),
        Setting::DeviceForward4(..) | Setting::AcceptRa(..) => return Ok(Vec::new()),
    };
    let mut originals = Vec::new();
    let mut keep = |other: String, ifindex: Option<u32>| -> Result<(), Error> {
        if let Some(value) = read(&other)? {
            originals.push(Original {
                path: other,
                value,
                ifindex,
                along_with: Some(path.to_owned()),
            });
        }
        Ok(())
    };
    let directory = format!("{ROOT}/{family}/conf");
    let entries = fs::read_dir(&directory).map_err(|source| io_error("listing devices' settings", source))?;
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        if matches!(name.as_bytes(), b"all" | b"default") {
            continue;
        }
        let Some((text, name)) = name
            .to_str()
            .and_then(|text| Some((text, LinkName::new(text).ok()?)))
        else {
            continue;
        };
        let other = format!("{family}/conf/{text}/forwarding");
        // Off is what it will be again with the switch.
        if !kept.has(&other) && read(&other)?.is_some_and(|value| value != "0") {
            keep(other, index_of(&name))?;
        }
    }
    for other in others {
        keep((*other).to_owned(), None)?;
    }
    // Put back last first, so the switch itself, kept behind these, goes before them.
    Ok(originals)
}

fn place(setting: &Setting) -> (String, Option<(LinkName, Ifindex)>) {
    match setting {
        Setting::Forward4 => (SWITCH4.to_owned(), None),
        Setting::Forward6 => ("ipv6/conf/all/forwarding".to_owned(), None),
        Setting::DeviceForward4(name, index) => {
            (format!("ipv4/conf/{name}/forwarding"), Some((*name, *index)))
        }
        Setting::AcceptRa(name, index) => (format!("ipv6/conf/{name}/accept_ra"), Some((*name, *index))),
    }
}

fn index_of(name: &LinkName) -> Option<u32> {
    let name = std::ffi::CString::new(name.as_bytes()).ok()?;
    // SAFETY: the name is a live string with its zero at the end.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

fn is_there(name: &LinkName, index: Ifindex) -> bool {
    index_of(name) == Some(index.get())
}

/// None if there is no such setting: a kernel without IPv6, a device that went.
fn read(path: &str) -> Result<Option<String>, Error> {
    match fs::read_to_string(format!("{ROOT}/{path}")) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::from_io(OP, Goal::Change, &error)),
    }
}

fn write(path: &str, value: &str) -> Result<(), Error> {
    match fs::OpenOptions::new().write(true).open(format!("{ROOT}/{path}")) {
        Ok(mut file) => match file.write_all(value.as_bytes()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::from_io(OP, Goal::Change, &error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::from_io(OP, Goal::Change, &error)),
    }
}

fn io_error(what: &'static str, source: io::Error) -> Error {
    Error::Io { what, source }
}

fn read_kept(file: &Path) -> Result<Kept, Error> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
        Err(error) => return Err(io_error("reading the kernel settings that were kept", error)),
    };
    // Written whole or not at all; somebody edited it. Guessing would make it worse.
    serde_json::from_slice(&text).map_err(|error| Error::Refused {
        op: OP,
        refusal: Refusal {
            errno: libc::EINVAL,
            text: Some(format!("{} is damaged: {error}", file.display()).into()),
        },
        class: super::Class::Refused,
    })
}

fn write_kept(file: &Path, kept: &Kept) -> Result<(), Error> {
    let keeping = |source| io_error("keeping the kernel settings as they were", source);
    if kept.settings.is_empty() {
        return match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(keeping(error)),
            _ => Ok(()),
        };
    }
    let text = serde_json::to_vec_pretty(kept).map_err(|error| keeping(error.into()))?;
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory).map_err(keeping)?;
    }
    let fresh: PathBuf = file.with_extension("json.new");
    let mut out = fs::File::create(&fresh).map_err(keeping)?;
    out.write_all(&text)
        .and_then(|()| out.sync_all())
        .map_err(keeping)?;
    fs::rename(&fresh, file).map_err(keeping)?;
    let directory = file.parent().map(fs::File::open);
    directory
        .transpose()
        .and_then(|d| d.map_or(Ok(()), |d| d.sync_all()))
        .map_err(keeping)
}
