//! Ends that go and come again while the other stays.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use wirerate_tests::needs::trial;
use wirerate_tests::{exclusive, scratch};

use super::ends::{Listener, Theirs};
use super::exchange::{exchange, send_some};
use super::variant::{Role, Variant};
use super::{NEEDS, connected};

/// Frames between two changes: each ring goes round.
const FRAMES: usize = 600;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("interop::our_virtio_user_outlives_their_net_vhost", NEEDS, || outlives(Role::Driver)),
        trial("interop::our_net_vhost_outlives_their_virtio_user", NEEDS, || outlives(Role::Device)),
        trial("interop::our_virtio_user_stops_and_starts", NEEDS, || stops_and_starts(Role::Driver)),
        trial("interop::our_net_vhost_stops_and_starts", NEEDS, || stops_and_starts(Role::Device)),
    ]
}

/// Runs `test` with each format of rings and each end as the one that listens.
fn each(
    role: Role,
    listeners: &[Listener],
    test: impl Fn(Variant, Listener, &Path) -> Result<()>,
) -> Result<()> {
    let _turn = exclusive::processors();
    for packed in [false, true] {
        for listener in listeners {
            let scratch = scratch::directory("interop")?;
            let variant = Variant { packed, pairs: 2, ..Variant::usual(role) };
            test(variant, *listener, &scratch.path().join("vhost.sock"))
                .with_context(|| format!("{variant}; who listens: {listener:?}"))?;
        }
    }
    Ok(())
}

fn outlives(role: Role) -> Result<()> {
    each(role, &[Listener::Ours, Listener::Theirs], |variant, listener, socket| {
        let (mut ours, mut theirs) = connected(variant, socket, listener)?;
        for round in 0..3 {
            exchange(&mut ours, FRAMES).with_context(|| format!("round {round}\n{}", theirs.describe()))?;
            if round == 1 {
                // It ends as users end it.
                theirs.end()?;
            } else {
                // It dies with frames of ours in its rings.
                theirs.freeze()?;
                send_some(&mut ours)?;
                theirs.kill()?;
            }
            ours.wait_for_link(false)?;
            ours.check_home().context("after the other end has gone")?;
            if listener == Listener::Theirs {
                // One that is killed leaves its socket, and DPDK does not listen where one is.
                let _ = std::fs::remove_file(socket);
            }
            theirs = Theirs::start(variant, socket, listener, "", &[])?;
            theirs.wait()?;
            ours.wait_for_link(true).with_context(|| theirs.describe())?;
        }
        exchange(&mut ours, FRAMES).with_context(|| theirs.describe())?;
        let sessions = ours.count(match role {
            Role::Driver => "virtio_sessions",
            Role::Device => "vhost_sessions",
        })?;
        ensure!(sessions >= 4, "{sessions} sessions");
        theirs.end()?;
        ours.stop()
    })
}

fn stops_and_starts(role: Role) -> Result<()> {
    // Their driver does not survive that it loses the device which it has connected to.
    let listeners: &[Listener] = match role {
        Role::Driver => &[Listener::Ours, Listener::Theirs],
        Role::Device => &[Listener::Theirs],
    };
    each(role, listeners, |variant, listener, socket| {
        let (mut ours, theirs) = connected(variant, socket, listener)?;
        for round in 0..4 {
            exchange(&mut ours, FRAMES).with_context(|| format!("round {round}\n{}", theirs.describe()))?;
            ours.check_counts()?;
            ours.stop().with_context(|| format!("round {round}"))?;
            ours.start_again()?;
            ours.wait_for_link(true).with_context(|| format!("round {round}\n{}", theirs.describe()))?;
        }
        exchange(&mut ours, FRAMES).with_context(|| theirs.describe())?;
        theirs.end()?;
        ours.stop()
    })
}
