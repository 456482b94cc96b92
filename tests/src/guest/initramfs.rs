//! What a guest finds as its root: busybox, the modules it loads, programs of the host and of ours, and our `init`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cpio::Archive;
use super::kernel::Kernel;
use super::ours;
use crate::{needs, program};

/// Time to ask busybox or ldd something.
const LIMIT: Duration = Duration::from_secs(30);

/// What is in a guest beside busybox.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    /// Modules of the kernel to load, with what they need.
    pub(super) modules: Vec<&'static str>,
    /// Programs of the host.
    pub(super) programs: Vec<String>,
    /// Programs of ours.
    pub(super) ours: Vec<ours::Program>,
    /// Plugins of DPDK, beside those that its programs are linked to: `net_virtio`.
    pub(super) dpdk: Vec<&'static str>,
}

/// An archive for `kernel` with this content: the programs are in `/host`.
pub(super) fn build(kernel: &Kernel, content: &Content) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["proc", "sys", "dev", "tmp", "run"] {
        archive.folder(folder)?;
    }
    archive.link("var/run", "/run")?;
    archive.file("init", include_bytes!("init.sh"))?;
    for (index, (name, content)) in kernel.modules()?.closure(&content.modules)?.iter().enumerate() {
        archive.file(&format!("modules/{index:03}-{name}.ko"), content)?;
    }
    let mut libraries = Libraries { archive: &mut archive, added: BTreeSet::new() };
    let busybox = needs::find("busybox").context("no busybox (Debian: apt install busybox-static)")?;
    libraries.program("bin/busybox", &busybox)?;
    for name in &content.programs {
        let path = needs::find(name).with_context(|| format!("no {name} on the host"))?;
        libraries.program(&format!("host/{name}"), &path)?;
    }
    for name in &content.dpdk {
        libraries.plugin(name)?;
    }
    for program in &content.ours {
        archive.file(&format!("host/{}", program.name()), &program.content()?)?;
    }
    let mut list = Command::new(&busybox);
    list.arg("--list");
    let list = program::run(list, LIMIT)?;
    list.expect_code(0)?;
    for applet in list.stdout.lines().filter(|&applet| applet != "busybox") {
        archive.link(&format!("bin/{applet}"), "busybox")?;
    }
    archive.finish()
}

/// Adds programs, and the libraries they need, each once.
struct Libraries<'a> {
    archive: &'a mut Archive,
    added: BTreeSet<String>,
}

impl Libraries<'_> {
    fn program(&mut self, place: &str, path: &Path) -> Result<()> {
        self.archive.file(place, &read(path)?)?;
        for library in needed(path)? {
            // The loader looks where the host's does.
            if !self.added.contains(&library) {
                self.archive.file(library.trim_start_matches('/'), &read(Path::new(&library))?)?;
                self.added.insert(library);
            }
        }
        Ok(())
    }

    /// Adds a plugin of DPDK where its programs look for plugins. One that is there as a library already they have
    /// without looking; as another file it would be loaded twice.
    fn plugin(&mut self, name: &str) -> Result<()> {
        let path = needs::dpdk_driver(name).with_context(|| format!("no DPDK driver {name} on the host"))?;
        // `librte_net_virtio.so.23.0` is linked to as `librte_net_virtio.so.23`.
        let (library, _) = path.rsplit_once('.').context("a plugin without a version")?;
        if !self.added.contains(library) && self.added.insert(path.clone()) {
            self.program(path.trim_start_matches('/'), Path::new(&path))?;
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// The libraries and the loader of a program; none for a static one.
fn needed(program: &Path) -> Result<Vec<String>> {
    let mut ldd = Command::new("ldd");
    ldd.arg(program).env("LC_ALL", "C");
    let listed = program::run(ldd, LIMIT)?;
    if listed.stderr.contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    listed.expect_code(0)?;
    libraries(&listed.stdout).with_context(|| format!("what {} needs", program.display()))
}

/// Reads `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)` and `/lib64/ld-linux-x86-64.so.2 (0x...)`.
fn libraries(listed: &str) -> Result<Vec<String>> {
    ensure!(!listed.contains("=> not found"), "a library is missing:\n{listed}");
    let words = listed.lines().filter_map(|line| {
        let path = line.split_once("=>").map_or(line, |(_, path)| path);
        path.split_whitespace().next()
    });
    Ok(words.filter(|word| word.starts_with('/')).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let listed = "\tlinux-vdso.so.1 (0x00007fcc1e43a000)\n\
                      \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007fcc1e2ac000)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007fcc1e43c000)\n";
        assert_eq!(
            libraries(listed).unwrap(),
            ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"]
        );
        assert_eq!(libraries("\tstatically linked\n").unwrap(), [""; 0]);
        assert!(libraries("\tlibx.so.1 => not found\n").is_err());
    }

    #[test]
    fn this_very_program_has_a_loader() {
        let own = std::env::current_exe().unwrap();
        let found = needed(&own).unwrap();
        assert!(found.iter().any(|library| library.contains("/ld-")), "{found:?}");
    }
}
