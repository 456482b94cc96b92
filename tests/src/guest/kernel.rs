//! The kernel that guests boot: Debian's, unpacked into a cache and installed nowhere.
//!
//! Tests take what is in the cache and download nothing. What fills it is [`Kernel::fetch`], by
//! `cargo run -p wirerate-tests --example guest -- --fetch`; `.ci/run` does that.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::cache::{self, Cache};
use super::image;
use super::modules::Modules;
use crate::program;

/// The package that depends on the present kernel's.
const META: &str = "linux-image-amd64";
/// The cache's name.
const CACHE: &str = "guest-kernels";
/// What the cache's folders begin with.
const FOLDER: &str = "linux-image-";
/// What the kernel's file is called when it has been taken out of its image.
const UNPACKED: &str = "kernel";
/// Time that apt may take to look something up.
const LOOK_UP: Duration = Duration::from_secs(60);
/// Time for a download of 70 MB, and to unpack it.
const DOWNLOAD: Duration = Duration::from_secs(600);

/// A kernel and its modules.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// What QEMU boots.
    pub image: PathBuf,
    /// The folder that has `modules.order` and `kernel/`.
    modules: PathBuf,
}

impl Kernel {
    /// The newest in the cache.
    ///
    /// # Errors
    /// When there is none; the message says how to get one.
    pub fn cached() -> Result<Self> {
        let cache = Cache::named(CACHE)?;
        let newest = cache.newest(FOLDER)?.with_context(|| {
            format!(
                "no kernel for guests in {} (Debian: cargo run -p wirerate-tests --example guest -- --fetch \
                 takes it from the package that {META} depends on)",
                cache.path().display()
            )
        })?;
        Self::in_folder(&newest)
    }

    /// Downloads the kernel that Debian's `linux-image-amd64` package depends on now, unless the cache has it.
    ///
    /// Two that do so at once download it once. It takes apt, with its lists up to date, and needs no root.
    ///
    /// # Errors
    /// When apt has no such package, or it cannot be downloaded or unpacked.
    pub fn fetch() -> Result<Self> {
        let cache = Cache::named(CACHE)?;
        let _locked = cache.lock()?;
        let (package, version) = resolve()?;
        let name = format!("{package}_{version}");
        let folder = cache.path().join(&name);
        if !folder.exists() {
            let work = cache.work()?;
            let content = work.path().join("content");
            unpack(&package, work.path(), &content)?;
            let kernel = Self::in_folder(&content).context("looking into the package")?;
            let unpacked = kernel.image.with_file_name(UNPACKED);
            // QEMU boots it packed, too: that takes longer, and is no reason to do without.
            if let Err(error) = image::unpack(&kernel.image, &unpacked) {
                eprintln!("the kernel for guests stays packed, and they start later: {error:#}");
            }
            cache.keep(&content, &name)?;
        }
        Self::in_folder(&folder)
    }

    /// Its modules.
    ///
    /// # Errors
    /// When their list cannot be read.
    pub fn modules(&self) -> Result<Modules> {
        Modules::read(&self.modules)
    }

    /// What dpkg unpacks: `boot/vmlinuz-<release>` and `lib/modules/<release>`, the latter below `usr` since
    /// Debian 13.
    fn in_folder(folder: &Path) -> Result<Self> {
        let boot = folder.join("boot");
        for entry in fs::read_dir(&boot).with_context(|| format!("reading {}", boot.display()))? {
            let name = entry?.file_name();
            if let Some(release) = name.to_str().and_then(|name| name.strip_prefix("vmlinuz-")) {
                let places = ["lib/modules", "usr/lib/modules"].map(|place| folder.join(place).join(release));
                let modules = places.into_iter().find(|place| place.is_dir());
                let modules = modules.with_context(|| format!("{release} has no modules"))?;
                let images = [boot.join(UNPACKED), boot.join(&name)];
                let image = images.into_iter().find(|image| image.exists()).context("no kernel")?;
                return Ok(Self { image, modules });
            }
        }
        bail!("no kernel in {}", boot.display())
    }
}

/// The kernel's package and its version.
fn resolve() -> Result<(String, String)> {
    let mut show = Command::new("apt-cache");
    show.args(["show", "--no-all-versions", META]).env("LC_ALL", "C");
    let shown = program::run(show, LOOK_UP).context("looking for a kernel with apt")?;
    shown.expect_code(0).with_context(|| format!("apt knows no {META}: apt-get update"))?;
    depended_on(&shown.stdout).with_context(|| format!("in what apt says of {META}:\n{}", shown.stdout))
}

/// Reads `Version:` and `Depends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)`.
fn depended_on(record: &str) -> Result<(String, String)> {
    let field = |name: &str| record.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let version = field("Version:").context("no version")?;
    let depends = field("Depends:").context("no dependency")?;
    let package = depends
        .split([' ', ',', '|'])
        .find(|word| word.starts_with("linux-image-"))
        .context("no kernel among the dependencies")?;
    // They become a folder's name.
    let is_plain = |text: &str| !text.contains('/');
    ensure!(is_plain(package) && is_plain(version), "{package} {version} is no package");
    Ok((package.to_owned(), version.to_owned()))
}

/// Downloads `package` into `work` and unpacks it into `content`.
fn unpack(package: &str, work: &Path, content: &Path) -> Result<()> {
    let mut download = Command::new("apt-get");
    download.args(["download", "-qq", package]).current_dir(work);
    program::run(download, DOWNLOAD)?.expect_code(0)?;
    let files = fs::read_dir(work)?.flatten().map(|entry| entry.path());
    let mut archives = files.filter(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let archive = archives.next().with_context(|| format!("apt-get download {package} left no file"))?;
    cache::unpack(&archive, content, DOWNLOAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_what_the_meta_package_depends_on() {
        let record = "Package: linux-image-amd64\nVersion: 6.1.192-2\n\
                      Depends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)\nSection: kernel\n";
        let found = depended_on(record).unwrap();
        assert_eq!(found, ("linux-image-6.1.0-56-amd64".to_owned(), "6.1.192-2".to_owned()));
        for wrong in
            ["", "Version: 1\n", "Version: 1\nDepends: other\n", "Version: 1/2\nDepends: linux-image-1\n"]
        {
            assert!(depended_on(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_kernel_comes_with_the_modules_of_its_release() {
        for place in ["lib/modules/6.1", "usr/lib/modules/6.1"] {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir_all(folder.path().join("boot")).unwrap();
            assert!(Kernel::in_folder(folder.path()).is_err(), "there is no kernel");
            fs::write(folder.path().join("boot/vmlinuz-6.1"), "").unwrap();
            assert!(Kernel::in_folder(folder.path()).is_err(), "there are no modules");
            fs::create_dir_all(folder.path().join(place)).unwrap();
            let kernel = Kernel::in_folder(folder.path()).unwrap();
            assert!(kernel.image.ends_with("boot/vmlinuz-6.1") && kernel.modules.ends_with(place));
            fs::write(folder.path().join("boot").join(UNPACKED), "").unwrap();
            assert!(Kernel::in_folder(folder.path()).unwrap().image.ends_with(UNPACKED));
        }
    }
}
