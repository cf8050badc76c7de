//! Where NVRTC lies: on the loader's path, in CUDA's folders, in `.tools`, among Python's packages.
//!
//! Outside the loader's path it is loaded by its full path; cudarc, which opens it by name, then gets the one that
//! calls itself so.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use cudarc::nvrtc;

use crate::engine::device::library;

/// What looking for NVRTC came to.
#[derive(Debug)]
pub struct Search {
    /// The file that was loaded.
    pub file: Option<PathBuf>,
    /// Where it was looked for, in order, as text.
    pub places: Vec<String>,
}

/// Loads NVRTC, once. `driver` is the major version of CUDA that the driver supports: one that is newer than the driver is taken only where there is no other.
pub fn find(driver: Option<i32>) -> &'static Search {
    static SEARCH: OnceLock<Search> = OnceLock::new();
    SEARCH.get_or_init(|| search(driver))
}

fn search(driver: Option<i32>) -> Search {
    let mut places = Vec::new();
    if let Some(own) = std::env::var_os("ENGINE_NVRTC") {
        let own = PathBuf::from(own);
        places.push(format!("{} (ENGINE_NVRTC)", own.display()));
        let libraries = libraries(&own);
        let file = libraries.into_iter().find(|library| load(library));
        return Search { file, places };
    }
    places.push("the loader's path (LD_LIBRARY_PATH)".to_string());
    // SAFETY: NVRTC's initializers are sound.
    if unsafe { nvrtc::sys::is_culib_present() } {
        return Search { file: loaded(), places };
    }
    let mut too_new = Vec::new();
    for list in [toolkits as fn() -> Vec<PathBuf>, local, python] {
        for folder in list() {
            places.push(folder.display().to_string());
            for library in libraries(&folder) {
                if driver.zip(major(&library)).is_some_and(|(driver, major)| major > driver) {
                    too_new.push(library);
                } else if load(&library) {
                    return Search { file: Some(library), places };
                }
            }
        }
    }
    let taken = too_new.into_iter().find(|library| load(library));
    Search { file: taken, places }
}

/// The folders of CUDA's installations.
fn toolkits() -> Vec<PathBuf> {
    let named = ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(std::env::var_os).filter(|v| !v.is_empty());
    let mut roots: Vec<PathBuf> = named.map(PathBuf::from).collect();
    roots.extend(["/usr/local/cuda", "/opt/cuda"].map(PathBuf::from));
    let mut versions = entries(Path::new("/usr/local"));
    versions.retain(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("cuda-")));
    roots.extend(versions.into_iter().rev());
    let inside = ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"];
    let folders = roots.iter().flat_map(|root| inside.map(|name| root.join(name)));
    folders.filter(|folder| folder.is_dir()).collect()
}

/// Where `tools/nvrtc` puts it: `.tools/nvrtc` in the working folder or beside the program or above.
fn local() -> Vec<PathBuf> {
    let working = std::env::current_dir().unwrap_or_default();
    let program = std::env::current_exe().unwrap_or_default();
    let above = std::iter::once(working.as_path()).chain(program.ancestors().skip(1));
    above.flat_map(|folder| packages(&folder.join(".tools/nvrtc"))).collect()
}

/// The folders of NVIDIA's packages among those of the environment's Python.
fn python() -> Vec<PathBuf> {
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(std::env::var_os);
    let mut programs: Vec<PathBuf> = environments.map(|e| Path::new(&e).join("bin/python3")).collect();
    programs.push("python3".into());
    let mut found = Vec::new();
    for program in programs {
        let asked = Command::new(program).args(["-c", "import sys; print('\\n'.join(sys.path))"]).output();
        let Ok(output) = asked else { continue };
        for folder in String::from_utf8_lossy(&output.stdout).lines().filter(|line| !line.is_empty()) {
            found.extend(packages(Path::new(folder)));
        }
    }
    found
}

/// `nvidia/cu13/lib`, `nvidia/cuda_nvrtc/lib`: as NVIDIA's Python packages lay their libraries.
fn packages(site: &Path) -> Vec<PathBuf> {
    let folders = entries(&site.join("nvidia")).into_iter().map(|package| package.join("lib"));
    folders.filter(|folder| !libraries(folder).is_empty()).collect()
}

/// What a folder holds, by name.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(read) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = read.flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

fn starts_with(path: &Path, start: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start))
}

/// The NVRTCs of a folder, the newest first.
fn libraries(folder: &Path) -> Vec<PathBuf> {
    let mut found = entries(folder);
    found.retain(|path| starts_with(path, "libnvrtc.so"));
    found.sort_by_key(|path| std::cmp::Reverse(major(path)));
    found
}

/// 13 of `libnvrtc.so.13`, also where that is what a link points to.
fn major(library: &Path) -> Option<i32> {
    let of = |path: &Path| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        name.strip_prefix("libnvrtc.so.")?.split('.').next()?.parse().ok()
    };
    of(library).or_else(|| of(&library.canonicalize().ok()?))
}

/// Loads the compiler and, before it, what it will ask for by name.
fn load(library: &Path) -> bool {
    let folder = library.parent().unwrap_or(Path::new(""));
    let builtins = entries(folder).into_iter().filter(|path| starts_with(path, "libnvrtc-builtins.so"));
    // SAFETY: NVRTC's initializers are sound.
    unsafe {
        builtins.for_each(|path| {
            library::open(&path);
        });
        library::open(library).is_some()
    }
}

/// The file of the NVRTC that this process has loaded.
fn loaded() -> Option<PathBuf> {
    // SAFETY: as above; the library stays loaded once it was opened so.
    let there = unsafe { nvrtc::sys::is_culib_present() };
    if !there {
        return None;
    }
    // SAFETY: the library was just found.
    let _stays_loaded = unsafe { nvrtc::sys::culib() };
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let files = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let file = files.map(PathBuf::from).find(|path| starts_with(path, "libnvrtc.so"));
    Some(file.unwrap_or_else(|| "libnvrtc.so".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_folder_comes_first_and_links_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let lib = folder.path().join("nvidia/cuda_nvrtc/lib");
        std::fs::create_dir_all(&lib).unwrap();
        for name in
            ["libnvrtc.so.12", "libnvrtc.so.13.0.88", "libnvrtc-builtins.so.13.0", "libnvrtc.alt.so.13"]
        {
            std::fs::write(lib.join(name), "").unwrap();
        }
        std::os::unix::fs::symlink("libnvrtc.so.12", lib.join("libnvrtc.so")).unwrap();
        let names =
            libraries(&lib).into_iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned());
        assert_eq!(names.collect::<Vec<_>>(), ["libnvrtc.so.13.0.88", "libnvrtc.so", "libnvrtc.so.12"]);
        assert_eq!((major(&lib.join("libnvrtc.so")), major(&lib)), (Some(12), None));
        assert_eq!(packages(folder.path()), [lib]);
        assert!(packages(&folder.path().join("nothing")).is_empty());
    }
}
