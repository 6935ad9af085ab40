//! Gives back memory that was needed once: the pages of the program's files after the start, the heap after a reload.
//!
//! Linking, reading the command line and the configuration, and opening everything run through most of the program
//! once; the loop itself is small. Those pages are the page cache's anyway; unmapping them means that a daemon on a host
//! under memory pressure keeps only what it uses. What is needed again comes back from the page cache with a minor fault.

use std::ffi::c_void;

/// Unmaps the pages of code, constants and symbol tables, the program's and its libraries', as far as they are the
/// files' own.
pub fn release_files() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else {
        return;
    };
    for (start, length) in unchanged_files(&maps) {
        // SAFETY: a private, read-only mapping of a file without a page of its own (nothing that the loader relocated),
        // so all it holds is the file's and is read from there again when touched. Nobody writes to it meanwhile: that
        // would need another protection first. A refusal costs memory, nothing else.
        unsafe { libc::madvise(start as *mut c_void, length, libc::MADV_DONTNEED) };
    }
}

/// Returns the heap's free pages: reading a large configuration takes several times what is kept of it. Blocks whoever
/// allocates meanwhile, for some 20 ms with 100,000 networks.
pub fn release_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: no arguments that could be wrong; it takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Address and length of what `/proc/self/smaps` calls a read-only mapping of a file with no anonymous page.
fn unchanged_files(maps: &str) -> impl Iterator<Item = (usize, usize)> {
    let mut mapping = None;
    maps.lines()
        .filter_map(move |line| match line.strip_prefix("Anonymous:") {
            Some(size) => mapping
                .take()
                .filter(|_| size.trim().strip_suffix("kB").is_some_and(|n| n.trim() == "0")),
            None => {
                mapping = read_only_file(line).or(mapping.take());
                None
            }
        })
}

/// The line that begins a mapping, if it is a file's that cannot be written.
fn read_only_file(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_whitespace();
    let (range, permissions) = (fields.next()?, fields.next()?);
    let path = fields.nth(3)?;
    if !matches!(permissions, "r-xp" | "r--p") || !path.starts_with('/') {
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

    fn released(first_line: &str, anonymous: &str) -> Vec<(usize, usize)> {
        let maps = format!("{first_line}\nRss:  12 kB\nAnonymous:  {anonymous}\nVmFlags: rd ex mr mw me\n");
        unchanged_files(&maps).collect()
    }

    #[test]
    fn only_unchanged_pages_of_files_are_released() {
        for permissions in ["r-xp", "r--p"] {
            let line =
                format!("55d0c0000000-55d0c0001000 {permissions} 00002000 fe:00 123      /usr/bin/tapwire");
            assert_eq!(released(&line, "0 kB"), [(0x55d0_c000_0000, 0x1000)]);
            assert_eq!(released(&line, "4 kB"), [], "relocated: {line}");
        }
        for other in [
            "55d0c0000000-55d0c0001000 rw-p 00002000 fe:00 123  /usr/bin/tapwire",
            "55d0c0000000-55d0c0001000 r--s 00002000 fe:00 123  /usr/bin/tapwire",
            "7ffd0000-7ffd1000 r-xp 00000000 00:00 0  [vdso]",
            "7ffd0000-7ffd1000 r-xp 00000000 00:00 0",
        ] {
            assert_eq!(released(other, "0 kB"), [], "{other}");
        }
    }

    #[test]
    fn a_mapping_that_stays_does_not_pass_for_the_one_before() {
        let maps = "\
55d0c0000000-55d0c0001000 r-xp 00000000 fe:00 1  /usr/bin/tapwire\nAnonymous:  4 kB\n\
55d0c0001000-55d0c0002000 rw-p 00001000 fe:00 1  /usr/bin/tapwire\nAnonymous:  0 kB\n\
55d0c0002000-55d0c0003000 r--p 00002000 fe:00 1  /usr/bin/tapwire\nAnonymous:  0 kB\n";
        assert_eq!(
            unchanged_files(maps).collect::<Vec<_>>(),
            [(0x55d0_c000_2000, 0x1000)]
        );
    }

    #[test]
    fn the_program_goes_on_after_its_files_were_released() {
        release_files();
        assert_eq!((1..=10).sum::<u32>(), 55);
    }
}
