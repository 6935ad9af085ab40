//! Gives back the pages of code that only the start needs.
//!
//! Reading the command line and the configuration, and opening everything, run through most of the program once; the
//! loop itself is small. Those pages are the page cache's anyway; unmapping them means that a daemon on a host under
//! memory pressure keeps only what it uses. What is needed again comes back from the page cache with a minor fault.

use std::ffi::c_void;

/// Unmaps the pages of executable code, the program's and its libraries'. Only those: they are never written, so
/// dropping them loses nothing (data that the loader relocated would come back unrelocated).
pub fn release_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return;
    };
    for (start, length) in maps.lines().filter_map(code) {
        // SAFETY: a private, read-only, executable mapping of a file, never written to (no text relocations in a
        // position-independent program), so its pages are the file's and are read from there again when touched.
        // A refusal costs memory, nothing else.
        unsafe { libc::madvise(start as *mut c_void, length, libc::MADV_DONTNEED) };
    }
}

/// Address and length of a line of `/proc/self/maps` that is a file's code.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_whitespace();
    let (range, permissions) = (fields.next()?, fields.next()?);
    let path = fields.nth(3)?;
    if permissions != "r-xp" || !path.starts_with('/') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_code_is_released() {
        let line =
            "55d0c0000000-55d0c0001000 r-xp 00002000 fe:00 123                        /usr/bin/tapwire";
        assert_eq!(code(line), Some((0x55d0_c000_0000, 0x1000)));
        for other in [
            "55d0c0000000-55d0c0001000 r--p 00002000 fe:00 123  /usr/bin/tapwire",
            "55d0c0000000-55d0c0001000 rw-p 00002000 fe:00 123  /usr/bin/tapwire",
            "7ffd0000-7ffd1000 r-xp 00000000 00:00 0  [vdso]",
            "7ffd0000-7ffd1000 r-xp 00000000 00:00 0",
        ] {
            assert_eq!(code(other), None, "{other}");
        }
    }

    #[test]
    fn the_program_goes_on_after_its_code_was_released() {
        release_code();
        assert_eq!((1..=10).sum::<u32>(), 55);
    }
}
