//! Settings of `/proc/sys/net` for gateways, and how they were before.
//!
//! The original of a setting is the one thing the kernel does not remember, so it is on disk before the setting is
//! changed: whatever ends the daemon, the next one with an emptier configuration puts it back. Forwarding drags others
//! along (every device's own switch, `accept_redirects`): these are kept and put back with it.
//!
//! Blocks; runs beside the loop.

use super::error::{Error, Goal};
use super::kept;
use crate::desired::gateway::{Setting, Sysctl};
use crate::model::{Ifindex, LinkName};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const OP: &str = "sysctls";
const ROOT: &str = "/proc/sys/net";
const FORWARD4: &str = "ipv4/ip_forward";
/// In the state directory.
const FILE: &str = "sysctl.json";

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
    /// All that was asked for last, changed or not.
    #[serde(default)]
    asked: Vec<Sysctl>,
}

impl Kept {
    fn is_asked(&self, path: &str) -> bool {
        self.asked.iter().any(|asked| place(&asked.setting).0 == path)
    }
    fn is_ours(&self, path: &str) -> bool {
        self.settings.iter().any(|original| original.path == path)
    }
}

/// What was asked for last, in this run or an earlier one; none if something is not so any more.
pub fn read(state_directory: &Path) -> Result<Option<Vec<Sysctl>>, Error> {
    let kept: Kept = kept::read(&state_directory.join(FILE))?;
    for want in &kept.asked {
        if to_write(&kept, want)?.is_some() {
            return Ok(None);
        }
    }
    let stray = |o: &Original| !kept.is_asked(o.along_with.as_ref().unwrap_or(&o.path));
    let is_whole = !kept.settings.iter().any(stray);
    Ok(is_whole.then_some(kept.asked))
}

/// Where it has to be written, and what is there; none if it is so, or nothing can be done about it.
fn to_write(kept: &Kept, want: &Sysctl) -> Result<Option<(String, String)>, Error> {
    let (path, device) = place(&want.setting);
    // A device that went meanwhile: its network is looked at again.
    if device.is_some_and(|(name, index)| !is_there(&name, index)) {
        return Ok(None);
    }
    let Some(now) = value_of(&path)? else {
        return Ok(None);
    };
    let other = want.instead_of.is_some_and(|v| now != v.to_string());
    let so = now == want.value.to_string() || (!kept.is_ours(&path) && other);
    Ok((!so).then_some((path, now)))
}

/// Makes every setting that was changed for a gateway and is not among these as it was, and these so.
pub fn apply(state_directory: &Path, wants: &[Sysctl]) -> Result<(), Error> {
    let file = state_directory.join(FILE);
    let mut kept: Kept = kept::read(&file)?;
    let mut fresh = kept.asked != wants;
    kept.asked = wants.to_vec();
    // The host-wide switch takes the devices' along, now and when it goes back.
    let mut taken_over = Vec::new();
    if kept.is_asked(FORWARD4) {
        let (goes, stays) = std::mem::take(&mut kept.settings)
            .into_iter()
            .partition(|o| is_device_forward4(o) && !kept.is_asked(&o.path));
        (taken_over, kept.settings) = (goes, stays);
    }
    // Before: a switch that goes takes along what is asked for.
    restore(&file, &mut kept)?;
    let mut writes = Vec::new();
    for want in wants {
        let Some((path, now)) = to_write(&kept, want)? else {
            continue;
        };
        if !kept.is_ours(&path) {
            let ifindex = place(&want.setting).1.map(|(_, index)| index.get());
            let ours =
                |other: &str| kept.is_ours(other) || taken_over.iter().any(|o: &Original| o.path == other);
            let along = dragged_along(&want.setting, &path, ours)?;
            kept.settings.extend(along);
            kept.settings.push(Original {
                path: path.clone(),
                value: now,
                ifindex,
                along_with: None,
            });
            fresh = true;
        }
        writes.push((path, want.value.to_string()));
    }
    if fresh {
        write_kept(&file, &kept)?;
    }
    for (path, value) in writes {
        write(&path, &value)?;
    }
    Ok(())
}

fn is_device_forward4(original: &Original) -> bool {
    let path = &original.path;
    original.along_with.is_none() && path.starts_with("ipv4/conf/") && path.ends_with("/forwarding")
}

/// Puts back whatever is not asked for, the last change first.
fn restore(file: &Path, kept: &mut Kept) -> Result<(), Error> {
    let wanted: Vec<String> = kept.asked.iter().map(|asked| place(&asked.setting).0).collect();
    let goes = |o: &Original| !wanted.contains(o.along_with.as_ref().unwrap_or(&o.path));
    if !kept.settings.iter().any(goes) {
        return Ok(());
    }
    for original in kept.settings.iter().rev().filter(|o| goes(o)) {
        let same_device = original.ifindex.is_none_or(|index| {
            let name = original
                .path
                .split('/')
                .nth(2)
                .and_then(|name| LinkName::new(name).ok());
            name.zip(Ifindex::new(index))
                .is_some_and(|(name, index)| is_there(&name, index))
        });
        if same_device && value_of(&original.path)?.is_some_and(|now| now != original.value) {
            write(&original.path, &original.value)?;
        }
    }
    kept.settings.retain(|o| !goes(o));
    write_kept(file, kept)
}

/// What the kernel changes with a host-wide switch (`inet_forward_change`, `addrconf_forward_change`).
fn dragged_along(setting: &Setting, path: &str, ours: impl Fn(&str) -> bool) -> Result<Vec<Original>, Error> {
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
        if let Some(value) = value_of(&other)? {
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
        // Off is what it will be again with the switch, and what it was where we switched it on.
        if !ours(&other) && value_of(&other)?.is_some_and(|value| value != "0") {
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
        Setting::Forward4 => (FORWARD4.to_owned(), None),
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
fn value_of(path: &str) -> Result<Option<String>, Error> {
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

fn write_kept(file: &Path, kept: &Kept) -> Result<(), Error> {
    kept::write(file, Some(kept).filter(|kept| **kept != Kept::default()))
}
