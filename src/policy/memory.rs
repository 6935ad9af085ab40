//! Giving memory back to the system after a plugin used much of it.
//!
//! glibc keeps freed memory at the end of each thread's arena up to a threshold that grows with the largest block ever
//! freed: one plugin at its limit, and the daemon would stay tens of megabytes larger for ever.

/// Freed memory at the end of an arena that is worth returning, and blocks that get pages of their own (bytes).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const THRESHOLDS: [(libc::c_int, libc::c_int); 2] = [
    (libc::M_TRIM_THRESHOLD, 512 << 10),
    (libc::M_MMAP_THRESHOLD, 1 << 20),
];

/// Fixes the allocator's thresholds for this process, once. Called before the first plugin runs.
pub fn keep_thresholds() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            for (parameter, bytes) in THRESHOLDS {
                // SAFETY: plain numbers; mallopt takes the allocator's own locks.
                if unsafe { libc::mallopt(parameter, bytes) } == 0 {
                    tracing::warn!(parameter, bytes, "allocator threshold not taken");
                }
            }
        });
    }
}

/// Returns free pages inside all arenas.
pub fn give_memory_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: no arguments that could be wrong; it takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
