//! Small files in the state directory: what the kernel does not remember, for as long as this kernel runs.
//!
//! A new boot starts from its own configuration: what a file says of an earlier one is void.

use super::error::Error;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

#[derive(Serialize, Deserialize)]
struct OfBoot<T> {
    /// `/proc/sys/kernel/random/boot_id`
    boot: String,
    #[serde(flatten)]
    what: T,
}

/// Nothing is kept if the file is not there, or of another boot.
pub fn read<T: DeserializeOwned + Default>(file: &Path) -> Result<T, Error> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
        Err(source) => return Err(io_error("reading what was kept", source)),
    };
    let kept: OfBoot<T> = serde_json::from_slice(&text).map_err(|error| {
        let damaged = format!("{} is damaged: {error}", file.display());
        io_error("reading what was kept", io::Error::other(damaged))
    })?;
    Ok(if kept.boot == boot()? {
        kept.what
    } else {
        T::default()
    })
}

/// On disk when it returns; whole, or as before. `None` removes the file.
pub fn write<T: Serialize>(file: &Path, what: Option<&T>) -> Result<(), Error> {
    let keeping = |source| io_error("keeping what the kernel forgets", source);
    let Some(what) = what else {
        return match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(keeping(error)),
            _ => Ok(()),
        };
    };
    let kept = OfBoot { boot: boot()?, what };
    let text = serde_json::to_vec_pretty(&kept).map_err(|error| keeping(error.into()))?;
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

fn boot() -> Result<String, Error> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|source| io_error("reading the boot's id", source))?;
    Ok(id.trim_end().to_owned())
}

fn io_error(what: &'static str, source: io::Error) -> Error {
    Error::Io { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_of_this_boot() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("below/list.json");
        assert_eq!(read::<Vec1>(&file).unwrap(), Vec1::default());
        let list = Vec1 { list: vec![1, 2] };
        write(&file, Some(&list)).unwrap();
        assert_eq!(read::<Vec1>(&file).unwrap(), list);
        let text = fs::read_to_string(&file)
            .unwrap()
            .replace(&boot().unwrap(), "another");
        fs::write(&file, text).unwrap();
        assert_eq!(read::<Vec1>(&file).unwrap(), Vec1::default());
        fs::write(&file, "{").unwrap();
        assert!(read::<Vec1>(&file).is_err());
        write::<Vec1>(&file, None).unwrap();
        write::<Vec1>(&file, None).unwrap();
        assert_eq!(read::<Vec1>(&file).unwrap(), Vec1::default());
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Vec1 {
        list: Vec<u8>,
    }
}
