//! Our ends of a virtio device against DPDK's, in its own process: `net_virtio_user` against its `net_vhost`, and the
//! other way round.
//!
//! DPDK's testpmd sends back what it receives, so each test proves both of our directions against both of theirs. By
//! default as many variants are run as it takes for each value of each dimension to meet each value of each other
//! dimension. `WIRERATE_INTEROP=full` in the environment runs all combinations, in some minutes:
//!
//! ```text
//! WIRERATE_INTEROP=full cargo test -p wirerate-tests --test end_to_end -- interop
//! ```

mod ends;
mod exchange;
mod offloads;
mod restarts;
mod variant;

use std::path::Path;

use anyhow::{Context, Result};
use libtest_mimic::Trial;
use wirerate_pmd::packet::Offload;
use wirerate_tests::needs::{Need, trial};
use wirerate_tests::{exclusive, scratch};

use ends::{Listener, Ours, Theirs};
use exchange::exchange;
use variant::{Role, Variant, pairwise, product};

const NEEDS: &[Need] = &[Need::Root, Need::DpdkVirtio];

pub(crate) fn trials() -> Vec<Trial> {
    let mut all = vec![
        trial("interop::our_virtio_user_and_their_net_vhost_split", NEEDS, || matrix(Role::Driver, false)),
        trial("interop::our_virtio_user_and_their_net_vhost_packed", NEEDS, || matrix(Role::Driver, true)),
        trial("interop::our_net_vhost_and_their_virtio_user_split", NEEDS, || matrix(Role::Device, false)),
        trial("interop::our_net_vhost_and_their_virtio_user_packed", NEEDS, || matrix(Role::Device, true)),
    ];
    all.extend(restarts::trials());
    all.extend(offloads::trials());
    all
}

fn matrix(role: Role, packed: bool) -> Result<()> {
    let _turn = exclusive::processors();
    let all = product(role, packed);
    let full = std::env::var_os("WIRERATE_INTEROP").is_some_and(|value| value == "full");
    let mut wrong = Vec::new();
    for variant in if full { all } else { pairwise(&all) } {
        if let Err(error) = forth_and_back(variant) {
            wrong.push(format!("{variant}: {error:#}"));
        }
    }
    anyhow::ensure!(wrong.is_empty(), "{} variants failed:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

/// Both ends of a device, at work.
fn connected(variant: Variant, socket: &Path, listener: Listener) -> Result<(Ours, Theirs)> {
    connected_with(variant, socket, listener, Offload::empty(), "", &[])
}

/// Both ends of a device, at work: ours with these liberties, theirs with these parameters and options.
fn connected_with(
    variant: Variant,
    socket: &Path,
    listener: Listener,
    liberties: Offload,
    device: &str,
    options: &[&str],
) -> Result<(Ours, Theirs)> {
    let start_ours = || Ours::start(variant, socket, listener, liberties);
    let start_theirs = || Theirs::start(variant, socket, listener, device, options);
    let (mut ours, mut theirs) = match listener {
        Listener::Ours => (start_ours()?, start_theirs()?),
        Listener::Theirs => {
            let mut theirs = start_theirs()?;
            // A driver that listens is not at work before a device has come; a device is, and answers at once then.
            if variant.role == Role::Driver {
                theirs.wait()?;
            }
            (start_ours()?, theirs)
        }
    };
    theirs.wait()?;
    ours.wait_for_link(true).with_context(|| theirs.describe())?;
    Ok((ours, theirs))
}

/// Frames by one variant; then all is home, and the other end ends well.
fn forth_and_back(variant: Variant) -> Result<()> {
    let scratch = scratch::directory("interop")?;
    let socket = scratch.path().join("vhost.sock");
    // Back ends listen, as they do unless told otherwise.
    let listener = if variant.role == Role::Driver { Listener::Theirs } else { Listener::Ours };
    let (mut ours, theirs) = connected(variant, &socket, listener)?;
    ours.check_features()?;
    // Each ring goes round more than twice.
    exchange(&mut ours, 2 * usize::from(variant.size) + 300).with_context(|| theirs.describe())?;
    ours.check_counts().with_context(|| theirs.describe())?;
    // The driver goes first: DPDK's does not survive it (SIGPIPE) that the device does.
    match variant.role {
        Role::Driver => {
            ours.stop()?;
            theirs.end()
        }
        Role::Device => {
            theirs.end()?;
            ours.wait_for_link(false)?;
            ours.stop()
        }
    }
}
