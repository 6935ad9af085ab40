//! What systemd is told. Without `NOTIFY_SOCKET` every call is free and silent.

use sd_notify::NotifyState;
use std::time::Duration;

/// Both ends of a state change. systemd that cannot be told is no reason to stop attaching taps: logged once each.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(target: "daemon", %error, "service manager could not be told");
    }
}

pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

pub fn watchdog() {
    tell(&[NotifyState::Watchdog]);
}

/// Half of `WatchdogSec`, if the service manager watches.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|timeout| timeout / 2)
}
