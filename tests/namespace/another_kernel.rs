//! Every test of this binary once more, under Debian's kernel in a virtual machine (`tests/rigs/vmrun`), where the pieces
//! for that are installed. One machine for all of them; what one emulated processor cannot do in time is scaled down
//! (`support::world::crowd`), never left out.

use crate::support::world::all_in_vm;

#[test]
fn the_other_kernel_passes_every_test_of_this_binary() {
    all_in_vm(module_path!());
}
