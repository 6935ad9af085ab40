//! Faults. The matrix: each kind of operation by each class of refusal, while everything else must go on. And every
//! failing prefix: each scenario again and again, with the nth operation failing, for every n.

mod matrix;
mod prefix;
