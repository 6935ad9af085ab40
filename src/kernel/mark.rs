//! How a restarted daemon recognises the forwarding entries it made.
//!
//! The VXLAN driver stores no `NDA_PROTOCOL` (6.1 and 6.18: it is accepted and forgotten), but it stores the entry's
//! state bits and flags as told and lists them again. So our mark is a combination nobody else sends:
//! `NTF_EXT_LEARNED` ("a control plane told this"), and `NUD_PERMANENT | NUD_REACHABLE` together.
//!
//! `NTF_EXT_LEARNED` is also what keeps a mixed flood entry honest. State and flags belong to the MAC, not to each
//! destination, and the kernel does not let an externally learned request take over an entry made by hand
//! (`vxlan_fdb_update_existing`). So when somebody appends a destination to our flood entry by hand, all its
//! destinations read as foreign from then on. The engine remembers which of them it told (`engine::state`); after a
//! restart they stay: what is left behind costs a flooded packet, what is deleted wrongly costs an outage.

/// `NUD_REACHABLE`: not in libc for every target.
const NUD_REACHABLE: u16 = 0x02;
const NUD_PERMANENT: u16 = 0x80;
const NTF_EXT_LEARNED: u8 = 0x10;

/// `ndm_state` of our VXLAN forwarding entries.
pub const STATE: u16 = NUD_PERMANENT | NUD_REACHABLE;
/// `ndm_flags` of our VXLAN forwarding entries, besides `NTF_SELF`.
pub const FLAGS: u8 = NTF_EXT_LEARNED;

/// Whether a listed forwarding entry carries our mark.
pub const fn is_ours(state: u16, flags: u8) -> bool {
    state & STATE == STATE && flags & FLAGS == FLAGS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_combination_is_our_mark() {
        const NOARP: u16 = 0x40;
        assert!(is_ours(STATE | NOARP, FLAGS | 0x02));
        // `bridge fdb append`, with and without `extern_learn`; FRR's entries.
        assert!(!is_ours(NUD_PERMANENT | NOARP, 0x02));
        assert!(!is_ours(NUD_PERMANENT | NOARP, NTF_EXT_LEARNED | 0x02));
        assert!(!is_ours(NUD_REACHABLE | NOARP, NTF_EXT_LEARNED | 0x02));
    }
}
