//! The invariants of the house (ARCHITECTURE.md), held by reading its files.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder` with one of the endings, as (path from the root, text).
fn files(folder: &str, endings: &[&str]) -> Vec<(String, String)> {
    fn walk(at: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(at) else { return };
        for entry in entries.map(|e| e.unwrap().path()) {
            let name = entry.file_name().unwrap().to_string_lossy().into_owned();
            if entry.is_dir() && name != "target" && !name.starts_with('.') && name != "runs" {
                walk(&entry, endings, found);
            } else if endings.iter().any(|e| name.ends_with(e)) {
                found.push(entry);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), endings, &mut found);
    found.sort();
    let relative = |p: &Path| p.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
    found.iter().filter_map(|p| Some((relative(p), fs::read_to_string(p).ok()?))).collect()
}

/// The code of a Rust file: no comments, no test module.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    text.lines().map(|l| l.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The identifiers and other words of a text, lower case, split at underscores and at capitals.
fn words(text: &str) -> Vec<String> {
    let mut spaced = String::new();
    for c in text.chars() {
        if !c.is_alphanumeric() {
            spaced.push(' ');
        } else {
            if c.is_uppercase() {
                spaced.push(' ');
            }
            spaced.extend(c.to_lowercase());
        }
    }
    spaced.split_whitespace().map(str::to_owned).collect()
}

fn none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn unsafe_and_the_cuda_driver_stay_on_the_ground_floor() {
    let found = files("src", &[".rs"])
        .into_iter()
        .filter(|(path, _)| !path.starts_with("src/engine/device/"))
        .filter(|(_, text)| words(&code(text)).iter().any(|w| w == "unsafe" || w == "cudarc"))
        .map(|(path, _)| path);
    none("`unsafe` or `cudarc` outside src/engine/device", found.collect());
}

#[test]
fn the_machine_knows_no_paper() {
    let papers =
        ["mirrorgan", "attngan", "stem", "glam", "damsm", "caption", "captions", "bird", "birds", "gan"];
    let found = files("src/engine", &[".rs"])
        .into_iter()
        .flat_map(|(path, text)| words(&code(&text)).into_iter().map(move |w| (path.clone(), w)))
        .filter(|(_, word)| papers.contains(&word.as_str()))
        .map(|(path, word)| format!("{path}: {word}"));
    none("words of the papers in src/engine", found.collect());
}

#[test]
fn the_papers_know_no_machine() {
    let found = ["src/mirrorgan", "src/train", "src/eval"]
        .iter()
        .flat_map(|folder| files(folder, &[".rs"]))
        .filter(|(_, text)| {
            let code = code(text);
            code.contains("engine::device") || code.contains("Buffer") || code.contains("Kernel")
        })
        .map(|(path, _)| path);
    none("a device buffer or kernel in mirrorgan, train or eval", found.collect());
}

#[test]
fn a_file_uses_only_floors_below_its_own() {
    const FLOORS: [(&str, u32); 15] = [
        ("atomic", 0),
        ("error", 0),
        ("engine::device", 0),
        ("engine::tensor", 1),
        ("engine::ops", 2),
        ("engine::nn", 3),
        ("engine", 3),
        ("config", 4),
        ("mirrorgan", 4),
        ("data", 4),
        ("train", 5),
        ("eval", 5),
        ("cli", 6),
        ("main", 6),
        ("lib", 6),
    ];
    let floor =
        |module: &str| FLOORS.iter().find(|(name, _)| module.starts_with(name)).map(|(_, floor)| *floor);
    let mut found = Vec::new();
    for (path, text) in files("src", &[".rs"]) {
        let module = path.trim_start_matches("src/").trim_end_matches(".rs").replace('/', "::");
        let own = floor(&module).unwrap_or_else(|| panic!("{path} stands on no floor: add it to this test"));
        for used in code(&text).split("crate::").skip(1) {
            if floor(used).is_some_and(|other| other > own) {
                found.push(format!("{path} uses {}", used.lines().next().unwrap()));
            }
        }
        for (one, other) in [("mirrorgan", "crate::data"), ("data", "crate::mirrorgan")] {
            if module.starts_with(one) && code(&text).contains(other) {
                found.push(format!("{path} uses {other}: the networks and the data do not see each other"));
            }
        }
    }
    none("uses of a higher floor", found);
}

#[test]
fn every_kernel_file_has_its_operator_file() {
    let stems = |folder: &str, ending: &str| -> Vec<String> {
        let all = files(folder, &[ending]).into_iter();
        all.map(|(path, _)| Path::new(&path).file_stem().unwrap().to_string_lossy().into_owned()).collect()
    };
    let not_operators = ["mod", "case"];
    let operators: Vec<_> =
        stems("src/engine/ops", ".rs").into_iter().filter(|o| !not_operators.contains(&o.as_str())).collect();
    let kernels = stems("kernels", ".cu");
    none("kernels without an operator", kernels.iter().filter(|k| !operators.contains(k)).cloned().collect());
    none("operators without kernels", operators.into_iter().filter(|o| !kernels.contains(o)).collect());
}

#[test]
fn inline_ptx_stands_in_one_file() {
    let found = files("kernels", &[".cu", ".cuh"])
        .into_iter()
        .filter(|(path, text)| path != "kernels/mma.cuh" && words(&code(text)).iter().any(|w| w == "asm"))
        .map(|(path, _)| path);
    none("inline PTX outside kernels/mma.cuh", found.collect());
}

#[test]
fn every_public_operator_occurs_in_a_case() {
    let covered: Vec<&str> = mirrorgan_engine::engine::ops::cases().iter().map(|c| c.op).collect();
    let mut found = Vec::new();
    for (path, text) in files("src/engine/ops", &[".rs"]) {
        if path.ends_with("mod.rs") || path.ends_with("case.rs") {
            continue;
        }
        for function in code(&text).split("\npub fn ").skip(1) {
            let (name, rest) = function.split_once('(').unwrap();
            let returns = rest.split('{').next().unwrap();
            let an_operator = rest.contains("&Tensor") && returns.contains("->");
            if an_operator && name != "cases" && !covered.contains(&name) {
                found.push(format!("{path}: {name}"));
            }
        }
    }
    none("operators without a case", found);
}

#[test]
fn numbers_of_the_papers_stand_in_presets_alone() {
    let numbers = ["2e-4", "0.0002", "5450", "5_450", "27297", "0.999", "4e-4", "2e-3"];
    let found = ["src/mirrorgan", "src/train", "src/engine/nn"]
        .iter()
        .flat_map(|folder| files(folder, &[".rs"]))
        .flat_map(|(path, text)| {
            let code = code(&text);
            numbers.iter().filter(|n| code.contains(**n)).map(|n| format!("{path}: {n}")).collect::<Vec<_>>()
        });
    none("hyper-parameters in code", found.collect());
}

#[test]
fn files_have_names_that_say_something() {
    let vague = ["utils", "util", "helpers", "helper", "common", "misc"];
    let found = ["src", "kernels", "benches", "tests", "tools", "examples"]
        .iter()
        .flat_map(|folder| files(folder, &[".rs", ".cu", ".cuh", ".py"]))
        .map(|(path, _)| path)
        .filter(|path| !path.starts_with("tools/cudaemu"))
        .filter(|path| path.split(['/', '.']).any(|part| vague.contains(&part)));
    none("files with vague names", found.collect());
}

#[test]
fn no_path_of_one_machine_and_no_parked_work() {
    let marks = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("FIX", "ME"),
    ];
    let mut found = Vec::new();
    for folder in ["src", "kernels", "benches", "tests", "tools", "examples", "presets", ".ci"] {
        for (path, text) in
            files(folder, &[".rs", ".cu", ".cuh", ".py", ".toml", ".md", "check", "run", "gpu"])
        {
            found.extend(marks.iter().filter(|m| text.contains(**m)).map(|m| format!("{path}: {m}")));
        }
    }
    none("paths of one machine, or parked work", found);
}
