//! The QEMU that takes devices from other processes by vfio-user: Debian's, unpacked into a cache and installed nowhere.
//!
//! The first that has them is QEMU 10.1, which is newer than what Debian 12 and 13 have. So it comes from the first suite
//! of [`SUITES`] whose version is new enough, by the mirror and the keyring that this machine's own apt uses, with all
//! libraries that it is linked to: it is started by the loader that came with them. As for the kernel, tests take what is
//! in the cache, and [`Emulator::fetch`] fills it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::cache::{self, Cache};
use crate::program;

/// Where to look, in this order: a suite, and another that it needs.
const SUITES: [(&str, Option<&str>); 5] = [
    ("bookworm-backports", Some("bookworm")),
    ("trixie", None),
    ("trixie-backports", Some("trixie")),
    ("forky", None),
    ("sid", None),
];
/// The package.
const PACKAGE: &str = "qemu-system-x86";
/// The first version that has the device (QEMU 10.1, docs/about/removed-features and the change log).
const FIRST: &str = "1:10.1";
/// The program, and the loader that starts it, in what was unpacked.
const PROGRAM: &str = "usr/bin/qemu-system-x86_64";
const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Where firmware is.
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];
/// Where apt's keyring of Debian is, if apt's settings name none.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Time that apt may take to look something up, with a download of lists of 10 MB.
const LOOK_UP: Duration = Duration::from_secs(180);
/// Time for a download of 40 MB, and to unpack it.
const DOWNLOAD: Duration = Duration::from_secs(600);

/// A QEMU in the cache.
#[derive(Debug, Clone)]
pub struct Emulator {
    folder: PathBuf,
}

impl Emulator {
    /// The newest in the cache.
    ///
    /// # Errors
    /// When there is none; the message says how to get one.
    pub fn cached() -> Result<Self> {
        let cache = Cache::named("emulators")?;
        let newest = cache.newest(PACKAGE)?.with_context(|| {
            format!(
                "no QEMU with vfio-user-pci in {} (Debian: cargo run -p wirerate-tests --example guest -- --fetch)",
                cache.path().display()
            )
        })?;
        Self::in_folder(newest)
    }

    /// Downloads the first that has vfio-user-pci, unless the cache has it.
    ///
    /// Two that do so at once download it once. It takes apt, and needs no root.
    ///
    /// # Errors
    /// When no suite has one, or it cannot be downloaded or unpacked.
    pub fn fetch() -> Result<Self> {
        let cache = Cache::named("emulators")?;
        let _locked = cache.lock()?;
        // What was looked up once stays good: a suite that has moved on is no reason to download again.
        if let Some(found) = cache.newest(PACKAGE)? {
            return Self::in_folder(found);
        }
        let work = cache.work()?;
        let source = Source::of_this_machine()?;
        let mut tried = Vec::new();
        for (suite, base) in SUITES {
            let apt = Apt::new(&work.path().join(suite), &source, suite, base)?;
            match apt.version() {
                Ok(version) if is_new(&version)? => {
                    let content = work.path().join("content");
                    apt.unpack(suite, &content)?;
                    Self::in_folder(content.clone())?.check()?;
                    // A version has a colon, which separates paths where the loader is told of them.
                    let name = format!("{PACKAGE}_{suite}_{}", version.replace(':', "%"));
                    let folder = cache.keep(&content, &name)?;
                    return Self::in_folder(folder);
                }
                Ok(version) => tried.push(format!("{suite} has {version}")),
                Err(error) => tried.push(format!("{suite}: {error:#}")),
            }
        }
        bail!("no suite has a {PACKAGE} from {FIRST} on, which has vfio-user-pci: {}", tried.join("; "))
    }

    fn in_folder(folder: PathBuf) -> Result<Self> {
        for file in [PROGRAM, LOADER] {
            let path = folder.join(file);
            ensure!(path.exists(), "there is no {}: remove {}", path.display(), folder.display());
        }
        Ok(Self { folder })
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The words that start it.
    #[must_use]
    pub fn words(&self) -> Vec<PathBuf> {
        let at = |path: &str| self.folder.join(path);
        let mut words = vec![at(LOADER), "--library-path".into(), at(LIBRARIES), at(PROGRAM)];
        for folder in FIRMWARE {
            words.extend(["-L".into(), at(folder)]);
        }
        words
    }

    /// Checks that it starts and has the device.
    fn check(&self) -> Result<()> {
        let words = self.words();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["-machine", "none", "-nodefaults", "-device", "vfio-user-pci,help"]);
        let told = program::run(command, LOOK_UP)?;
        told.expect_code(0)?;
        ensure!(told.stdout.contains("socket"), "its vfio-user-pci takes no socket:\n{}", told.stdout);
        Ok(())
    }
}

/// Whether a version of QEMU has the device.
fn is_new(version: &str) -> Result<bool> {
    let mut compare = Command::new("dpkg");
    compare.args(["--compare-versions", version, "ge", FIRST]);
    let code = program::run(compare, LOOK_UP)?.status.code();
    ensure!(matches!(code, Some(0 | 1)), "dpkg does not compare {version:?} with {FIRST}");
    Ok(code == Some(0))
}

/// Where this machine's apt has Debian's packages from.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    mirror: String,
    keyring: Option<String>,
}

impl Source {
    fn of_this_machine() -> Result<Self> {
        let mut ask = Command::new("apt-get");
        ask.args(["indextargets", "--format", "$(CODENAME) $(REPO_URI) $(SOURCESENTRY)"]);
        ask.args(["Created-By: Packages", "Origin: Debian", "Component: main"]).env("LC_ALL", "C");
        let told = program::run(ask, LOOK_UP).context("asking apt for its sources")?;
        told.expect_code(0)?;
        let (mirror, file) = main_suite(&told.stdout)
            .with_context(|| format!("apt has no main suite of Debian (apt-get update):\n{}", told.stdout))?;
        let keyring = fs::read_to_string(file).ok().and_then(|entries| keyring(&entries));
        let keyring = keyring.or_else(|| Path::new(KEYRING).exists().then(|| KEYRING.to_owned()));
        Ok(Self { mirror: mirror.to_owned(), keyring })
    }

    /// A line of sources.list.
    fn line(&self, suite: &str) -> String {
        let signed = self.keyring.as_ref().map(|path| format!("[signed-by={path}] ")).unwrap_or_default();
        format!("deb {signed}{} {suite} main\n", self.mirror)
    }
}

/// The mirror and the file that names it, of the first suite that is none of updates: `bookworm`.
fn main_suite(told: &str) -> Option<(&str, &str)> {
    told.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (suite, mirror, entry) = (words.next()?, words.next()?, words.next()?);
        // `/etc/apt/sources.list.d/debian.sources:1`.
        (!suite.contains('-')).then(|| (mirror, entry.rsplit_once(':').map_or(entry, |(file, _)| file)))
    })
}

/// The keyring's file that entries of apt's sources name, in either of their forms.
fn keyring(entries: &str) -> Option<String> {
    let named = entries.lines().filter(|line| !line.trim_start().starts_with('#')).find_map(|line| {
        let (_, rest) = line.split_once("signed-by=").or_else(|| line.split_once("Signed-By:"))?;
        rest.trim_start().split([' ', ']', ',']).next()
    });
    named.filter(|path| path.starts_with('/')).map(str::to_owned)
}

/// An apt with sources and a state of its own, which knows of no package that is installed.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Downloads the lists of a suite and of what it needs.
    fn new(folder: &Path, source: &Source, suite: &str, base: Option<&str>) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial", "state"] {
            fs::create_dir_all(folder.join(part))?;
        }
        // All that is needed is to come, libraries of the system among it.
        fs::write(folder.join("state/status"), "")?;
        let lines: String = base.into_iter().chain([suite]).map(|suite| source.line(suite)).collect();
        fs::write(folder.join("sources.list"), lines)?;
        Ok(Self { folder: folder.to_owned() })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let at = |path: &str| self.folder.join(path).display().to_string();
        for (key, value) in [
            ("Dir::Etc::sourcelist", at("sources.list")),
            ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
            ("Dir::Etc::preferencesparts", "/dev/null".to_owned()),
            ("Dir::State", at("state")),
            ("Dir::State::Lists", at("lists")),
            ("Dir::State::status", at("state/status")),
            ("Dir::Cache", at("cache")),
            ("Acquire::Languages", "none".to_owned()),
            ("APT::Install-Recommends", "0".to_owned()),
            ("APT::Sandbox::User", String::new()),
        ] {
            command.arg("-o").arg(format!("{key}={value}"));
        }
        command.env("LC_ALL", "C");
        command
    }

    /// The newest version that the suites have.
    fn version(&self) -> Result<String> {
        let mut update = self.command("apt-get");
        update.args(["-qq", "update"]);
        program::run(update, LOOK_UP)?.expect_code(0)?;
        let mut ask = self.command("apt-cache");
        ask.args(["madison", PACKAGE]);
        let told = program::run(ask, LOOK_UP)?;
        // `qemu-system-x86 | 1:11.1.3+ds-1~bpo13+1 | ...`, the newest first.
        let version = told.stdout.lines().next().and_then(|line| line.split('|').nth(1)).map(str::trim);
        Ok(version.context("no such package")?.to_owned())
    }

    /// Downloads the package with all that it needs, and unpacks them.
    fn unpack(&self, suite: &str, content: &Path) -> Result<()> {
        let mut install = self.command("apt-get");
        install.args(["-qq", "-y", "--download-only", "-t", suite, "install", PACKAGE]);
        program::run(install, DOWNLOAD)?.expect_code(0)?;
        for entry in fs::read_dir(self.folder.join("cache/archives"))?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "deb") {
                cache::unpack(&entry.path(), content, DOWNLOAD)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_the_main_suite() {
        let told = "bookworm-security http://b.example/security/ /etc/apt/sources.list.d/debian.sources:2\n\
                    bookworm http://a.example/debian/ /etc/apt/sources.list.d/debian.sources:1\n";
        assert_eq!(
            main_suite(told),
            Some(("http://a.example/debian/", "/etc/apt/sources.list.d/debian.sources"))
        );
        assert_eq!(main_suite("bookworm-security http://b.example/ /etc/x:2\n"), None);
        let source = Source { mirror: "http://a.example/".into(), keyring: Some("/k.gpg".into()) };
        assert_eq!(source.line("sid"), "deb [signed-by=/k.gpg] http://a.example/ sid main\n");
        assert_eq!(Source { keyring: None, ..source }.line("sid"), "deb http://a.example/ sid main\n");
    }

    #[test]
    fn the_keyring_is_named_in_either_form_of_entries() {
        let is = |entries, expected: Option<&str>| assert_eq!(keyring(entries).as_deref(), expected);
        is("Types: deb\nSigned-By: /usr/share/k.gpg\n", Some("/usr/share/k.gpg"));
        is(
            "# signed-by=/no.gpg\ndeb [arch=amd64 signed-by=/k.gpg] http://a.example x main\n",
            Some("/k.gpg"),
        );
        is("deb [signed-by=/k.gpg,/l.gpg] http://a.example x main\n", Some("/k.gpg"));
        is("Signed-By:\n -----BEGIN PGP\n", None);
        is("deb http://a.example x main\n", None);
    }

    #[test]
    fn versions_are_compared_as_debian_does() {
        for (version, new) in
            [("1:7.2+dfsg-7+deb12u18", false), ("1:10.0.2+ds-1", false), ("1:11.1.3+ds-1~bpo13+1", true)]
        {
            assert_eq!(is_new(version).unwrap(), new, "{version}");
        }
    }
}
