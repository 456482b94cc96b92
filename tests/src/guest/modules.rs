//! Modules of a kernel, and what they need before them.
//!
//! A module says itself which others it needs: in its section `.modinfo` are strings `key=value`, each with its
//! zero byte, of which one is `depends=virtio,virtio_ring`. That saves making `modules.dep`, which the package of
//! a kernel does not contain.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The modules of one kernel.
#[derive(Debug)]
pub struct Modules {
    folder: PathBuf,
    /// Path in the folder by name.
    paths: BTreeMap<String, String>,
    /// Names of those that the kernel has in it.
    builtin: BTreeSet<String>,
}

/// A module's name and content.
pub type Module = (String, Vec<u8>);

impl Modules {
    /// Reads the lists in `folder`: `modules.order` and `modules.builtin`.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let list = |name: &str| -> Result<String> {
            let path = folder.join(name);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let paths = list("modules.order")?.lines().map(|path| (name(path), path.to_owned())).collect();
        let builtin = list("modules.builtin")?.lines().map(name).collect();
        Ok(Self { folder: folder.to_owned(), paths, builtin })
    }

    /// `names` and all that they need, in an order in which they can be loaded. What the kernel has in it is left
    /// out.
    ///
    /// # Errors
    /// When there is no module of a name, or it cannot be read.
    pub fn closure(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut loaded = Vec::new();
        let mut seen = BTreeSet::new();
        for name in names {
            self.add(name, &mut seen, &mut loaded).with_context(|| format!("for the module {name}"))?;
        }
        Ok(loaded)
    }

    fn add(&self, name: &str, seen: &mut BTreeSet<String>, loaded: &mut Vec<Module>) -> Result<()> {
        if self.builtin.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let path = self.paths.get(name).with_context(|| format!("the kernel has no module {name}"))?;
        let path = self.folder.join(path);
        let content = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        for needed in depends(&content).with_context(|| format!("{} is no module", path.display()))? {
            self.add(&needed, seen, loaded)?;
        }
        loaded.push((name.to_owned(), content));
        Ok(())
    }
}

/// `kernel/drivers/net/virtio-net.ko` is the module `virtio_net`.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

/// The modules that this one needs; nothing when it does not say.
fn depends(module: &[u8]) -> Option<Vec<String>> {
    const KEY: &[u8] = b"\0depends=";
    let start = module.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let value = module[start..].split(|&byte| byte == 0).next()?;
    let names = std::str::from_utf8(value).ok()?.split(',').filter(|name| !name.is_empty());
    Some(names.map(|name| name.replace('-', "_")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_before_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let modules = [("net/a.ko", "b,c-d"), ("b.ko", "c-d,inside"), ("net/c-d.ko", ""), ("e.ko", "gone")];
        fs::create_dir(folder.path().join("net")).unwrap();
        for (path, needs) in modules {
            fs::write(folder.path().join(path), format!("ELF\0license=GPL\0depends={needs}\0rest")).unwrap();
        }
        fs::write(folder.path().join("f.ko"), "something else").unwrap();
        fs::write(folder.path().join("modules.order"), "net/a.ko\nb.ko\nnet/c-d.ko\ne.ko\nf.ko\n").unwrap();
        fs::write(folder.path().join("modules.builtin"), "kernel/inside.ko\n").unwrap();
        let read = Modules::read(folder.path()).unwrap();
        let names = |wanted: &[&str]| -> Vec<String> {
            read.closure(wanted).unwrap().into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(&["a"]), ["c_d", "b", "a"]);
        assert_eq!(names(&["b", "inside", "a"]), ["c_d", "b", "a"]);
        for (wrong, word) in [("e", "no module gone"), ("f", "is no module"), ("g", "no module g")] {
            let error = format!("{:#}", read.closure(&[wrong]).unwrap_err());
            assert!(error.contains(word), "{error}");
        }
    }
}
