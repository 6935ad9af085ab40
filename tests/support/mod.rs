//! The rig of the namespace tests: real kernel, real daemon, no root.
//!
//! A test is a plain `#[test]` whose body runs in its own private user + network + mount namespace:
//!
//! ```ignore
//! #[test]
//! fn a_tap_is_attached_to_its_network() {
//!     in_namespace(|| {
//!         require!(Feature::Tap);
//!         let host = Host::here();
//!         let daemon = host.daemon("[[network]]\nid = \"blue\"\nnetwork_type = \"local\"\n...");
//!         let tap = host.tap("tap0");
//!         wait_until("tap0 is attached", Duration::from_secs(2), || host.master("tap0").as_deref() == Some("brqblue"));
//!     });
//! }
//! ```
//!
//! All namespace tests are modules of one binary (`tests/namespace/main.rs`), because every integration-test binary
//! links the whole program once more. Add a module there.
//!
//! - `world`: `in_namespace`; a missing kernel feature sends the test into a virtual machine that has it, else skips
//! - `feature`: `require!`, what a test needs of this machine
//! - `frame`: raw frames between guests
//! - `host`: a network namespace as a host: `ip`, `bridge`, taps and crowds of them, a second host on one underlay
//! - `daemon`: the daemon under test: configuration, signals, status, log; an unexpected ERROR line fails the test
//! - `guest`: a machine behind a tap, with DHCP clients and a resolver
//! - `observer`: link events as the kernel sends them, counted
//! - `wait`: `wait_until`

pub mod daemon;
pub mod feature;
pub mod frame;
pub mod guest;
pub mod host;
pub mod observer;
pub mod wait;
pub mod wire;
pub mod world;
