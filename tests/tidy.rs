//! The invariants of the house (ARCHITECTURE.md), held by reading its files.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder` with one of the endings, as (path from the root, text); there must be some.
fn files(folder: &str, endings: &[&str]) -> Vec<(String, String)> {
    fn walk(at: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(at).unwrap_or_else(|e| panic!("{}: {e}", at.display())) {
            let entry = entry.unwrap().path();
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
    assert!(!found.is_empty(), "there is no {endings:?} in {folder}: did it move?");
    let relative = |p: &Path| p.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
    found.iter().map(|p| (relative(p), fs::read_to_string(p).unwrap())).collect()
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

/// Standard error may go away; `println!` and `eprintln!` panic then.
#[test]
fn all_talk_goes_through_a_writer_that_survives() {
    let speaks =
        |text: &str| ["println!", "eprintln!", "print!", "eprint!", "dbg!"].iter().any(|m| text.contains(m));
    let found =
        files("src", &[".rs"]).into_iter().filter(|(_, text)| speaks(&code(text))).map(|(path, _)| path);
    none("`println!` or its kin: write `error::note`, or `say` of the command line", found.collect());
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

/// The code without what it takes from other crates, which have buffers and kernels of their own.
fn without_crates(code: &str) -> String {
    let ours = |statement: &&str| {
        let path = statement.trim_start().strip_prefix("use ");
        path.is_none_or(|path| ["crate::", "super::", "self::"].iter().any(|own| path.starts_with(own)))
    };
    code.split_inclusive(';').filter(ours).collect()
}

#[test]
fn the_papers_know_no_machine() {
    let found = [
        "src/data",
        "src/mirrorgan",
        "src/config",
        "src/render",
        "src/run",
        "src/infer",
        "src/eval",
        "src/train",
    ]
    .iter()
    .flat_map(|folder| files(folder, &[".rs"]))
    .filter(|(_, text)| {
        let code = without_crates(&code(text));
        let mut names = code.split(|c: char| !c.is_alphanumeric() && c != '_');
        code.contains("engine::device") || names.any(|name| ["Buffer", "IntBuffer", "Kernel"].contains(&name))
    })
    .map(|(path, _)| path);
    none("a device, buffer or kernel above the engine", found.collect());
}

// ---------------------------------------------------------------- floors

/// Every module of the crate, lowest floor first. A file uses its own module and those of lower floors; modules of one
/// floor are strangers. The longest name that fits a path counts.
const FLOORS: [&[&str]; 15] = [
    &["error"],
    &["files"],
    &["engine::device"],
    &["engine::tensor"],
    &["engine::ops"],
    &["engine::nn"],
    &["engine"],
    &["data", "mirrorgan", "bench"],
    &["config"],
    &["render"],
    &["run"],
    &["infer"],
    &["eval", "import"],
    &["train"],
    &["report", "serve"],
];
/// These stand above all.
const ROOF: [&str; 3] = ["cli", "main", "lib"];

/// The module of FLOORS that a path belongs to, and its floor.
fn floor(path: &str) -> Option<(&'static str, usize)> {
    let fits =
        |name: &str| path == name || path.strip_prefix(name).is_some_and(|rest| rest.starts_with("::"));
    let all =
        FLOORS.iter().enumerate().flat_map(|(floor, names)| names.iter().map(move |name| (*name, floor)));
    let roof = ROOF.iter().map(|name| (*name, FLOORS.len()));
    all.chain(roof).filter(|(name, _)| fits(name)).max_by_key(|(name, _)| name.len())
}

/// `src/engine/ops/conv/mod.rs` is `engine::ops::conv`.
fn module_of(path: &str) -> String {
    let module = path.trim_start_matches("src/").trim_end_matches(".rs").replace('/', "::");
    module.strip_suffix("::mod").unwrap_or(&module).to_string()
}

/// A path used in a file, from the crate's root.
#[derive(Debug)]
struct Use {
    path: String,
    public: bool,
}

/// Every path of this crate that a file names, in `use` or in passing, groups and `super::super` resolved.
fn uses(path: &str, text: &str) -> Vec<Use> {
    let module = module_of(path);
    let names_its_folder = path.ends_with("/mod.rs") || ["src/lib.rs", "src/main.rs"].contains(&path);
    let own: Vec<&str> = module.split("::").filter(|m| *m != "lib" && *m != "main").collect();
    let absolute = |path: &str| -> Option<String> {
        let mut parts: Vec<&str> = path.split("::").collect();
        let mut base = match parts[0] {
            "crate" => Vec::new(),
            "self" => own.clone(),
            "super" => {
                let up = parts.iter().take_while(|p| **p == "super").count();
                parts.drain(..up - 1);
                own[..own.len().checked_sub(up)?].to_vec()
            }
            // A `pub use` of a module of the same folder.
            _ if names_its_folder => {
                let mut base = own.clone();
                base.push(parts[0]);
                base
            }
            _ => return None,
        };
        base.extend(&parts[1..]);
        Some(base.join("::"))
    };
    let code = code(text);
    let mut found = Vec::new();
    let mut rest = String::new();
    let mut text = code.as_str();
    while let Some(at) = text.find("use ") {
        let begins = text[..at].ends_with(|c: char| c.is_whitespace() || c == ')') || at == 0;
        let end = text[at..].find(';').map_or(text.len(), |end| at + end);
        rest.push_str(&text[..at]);
        if begins {
            let line = text[..at].rsplit('\n').next().unwrap_or("");
            for path in grouped(&text[at + 4..end]) {
                found.extend(absolute(&path).map(|path| Use { path, public: line.contains("pub") }));
            }
        }
        text = &text[end.min(text.len())..];
    }
    rest.push_str(text);
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    for word in rest.split(|c| !is_path(c)).filter(|w| w.starts_with("crate::") || w.starts_with("super::")) {
        let path = word.trim_end_matches(':');
        found.extend(absolute(path).map(|path| Use { path, public: false }));
    }
    found
}

/// `a::{b, c::{d, self}}` is `a::b`, `a::c::d`, `a::c`.
fn grouped(text: &str) -> Vec<String> {
    let text = text.trim();
    let Some(open) = text.find('{') else {
        let path = text.split(" as ").next().unwrap().trim().trim_end_matches("::*");
        return if path.is_empty() { Vec::new() } else { vec![path.to_string()] };
    };
    let prefix = text[..open].trim_end_matches("::");
    let inside = &text[open + 1..text.rfind('}').unwrap_or(text.len())];
    let (mut depth, mut part, mut parts) = (0, String::new(), Vec::new());
    for c in inside.chars().chain([',']) {
        match c {
            ',' if depth == 0 => parts.push(std::mem::take(&mut part)),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                part.push(c);
            }
        }
    }
    let whole = |inner: String| match inner.as_str() {
        "self" => prefix.to_string(),
        _ if prefix.is_empty() => inner,
        _ => format!("{prefix}::{inner}"),
    };
    parts.iter().flat_map(|part| grouped(part)).map(whole).collect()
}

#[test]
fn a_file_uses_only_floors_below_its_own() {
    let mut found = Vec::new();
    for (path, text) in files("src", &[".rs"]) {
        let module = module_of(&path);
        let (own, height) =
            floor(&module).unwrap_or_else(|| panic!("{path} stands on no floor: add it to FLOORS"));
        for used in uses(&path, &text) {
            let Some((other, floor)) = floor(&used.path) else { continue };
            let re_export = used.public && other.starts_with(own);
            if other != own && floor >= height && !re_export && height < FLOORS.len() {
                found.push(format!("{path} uses {}", used.path));
            }
        }
    }
    none("uses of a higher floor, or of a stranger on the same floor", found);
}

#[test]
fn the_reader_of_uses_understands_groups_and_super() {
    let text = "use crate::{error::{Error, throw}, data};\nuse super::super::seed::rng_for;\npub use inner::Thing;\n\
                fn f() { crate::engine::device::with(super::g) }\n// crate::comment::x\n";
    let found: Vec<String> = uses("src/run/deep/mod.rs", text).into_iter().map(|u| u.path).collect();
    let expected = [
        "error::Error",
        "error::throw",
        "data",
        "seed::rng_for",
        "run::deep::inner::Thing",
        "engine::device::with",
        "run::g",
    ];
    assert_eq!(found, expected);
}

/// The file that defines what a path names: through re-exports, else the longest module that is a file.
fn file_of(
    path: &str,
    modules: &HashMap<String, String>,
    exports: &HashMap<String, String>,
) -> Option<String> {
    let mut path = path.to_string();
    for _ in 0..8 {
        let parts: Vec<&str> = path.split("::").collect();
        let longest =
            (1..=parts.len()).rev().map(|n| parts[..n].join("::")).find(|m| modules.contains_key(m))?;
        let next = parts.get(longest.split("::").count()).map(|name| format!("{longest}::{name}"));
        match next.and_then(|name| exports.get(&name)) {
            Some(target) => path = target.clone(),
            None => return modules.get(&longest).cloned(),
        }
    }
    None
}

/// A `mod.rs` and the files of its folder count as one reader's page: they may use each other.
#[test]
fn no_circle_of_files() {
    let all = files("src", &[".rs"]);
    let modules: HashMap<String, String> =
        all.iter().map(|(path, _)| (module_of(path), path.clone())).collect();
    let mut exports = HashMap::new();
    for (path, text) in &all {
        for used in uses(path, text).into_iter().filter(|u| u.public) {
            let name = used.path.rsplit("::").next().unwrap().to_string();
            exports.insert(format!("{}::{name}", module_of(path)), used.path);
        }
    }
    let kin = |a: &str, b: &str| {
        let folder = |path: &str| path.strip_suffix("/mod.rs").map(str::to_owned);
        [(a, b), (b, a)].iter().any(|(parent, child)| {
            folder(parent).is_some_and(|folder| child.starts_with(&format!("{folder}/")))
        })
    };
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in &all {
        let targets = uses(path, text).into_iter().filter_map(|u| file_of(&u.path, &modules, &exports));
        let targets = targets.filter(|to| to != path && !kin(to, path));
        edges.insert(path.clone(), targets.collect());
    }
    fn reach(at: &str, edges: &BTreeMap<String, BTreeSet<String>>, seen: &mut BTreeSet<String>) {
        for next in edges.get(at).into_iter().flatten() {
            if seen.insert(next.clone()) {
                reach(next, edges, seen);
            }
        }
    }
    let mut circles = BTreeSet::new();
    for path in edges.keys() {
        let mut seen = BTreeSet::new();
        reach(path, &edges, &mut seen);
        if seen.contains(path) {
            let back = |other: &&String| {
                let mut from = BTreeSet::new();
                reach(other, &edges, &mut from);
                from.contains(path)
            };
            circles.insert(seen.iter().filter(back).cloned().collect::<Vec<_>>().join(" ↔ "));
        }
    }
    assert!(edges.values().map(BTreeSet::len).sum::<usize>() > 100, "hardly any use was found");
    none("files that use each other", circles.into_iter().collect());
}

// ---------------------------------------------------------------- sizes

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 60;

#[test]
fn files_and_functions_can_be_read() {
    let mut found = Vec::new();
    for (path, text) in files("src", &[".rs"]) {
        let count = text.lines().count();
        if count > FILE_LINES {
            found.push(format!("{path}: {count} lines; over {FILE_LINES} a file becomes a folder"));
        }
        for (name, lines) in functions(&text) {
            if lines > FUNCTION_LINES && name != "cases" {
                found.push(format!(
                    "{path}: fn {name}: {lines} lines, at most {FUNCTION_LINES} are read at once"
                ));
            }
        }
    }
    none("files and functions that are too long", found);
}

/// Name and lines of every function, as rustfmt lays them out.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let plain = line.trim_start();
        let Some(after) = plain.split("fn ").nth(1).filter(|_| {
            let before = plain.split("fn ").next().unwrap();
            !before.starts_with("//")
                && before.split_whitespace().all(|w| {
                    w.starts_with("pub")
                        || ["const", "unsafe", "extern", "\"C\"", "async", "super)", "crate)"].contains(&w)
                })
        }) else {
            continue;
        };
        let name = after.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_string();
        let close = format!("{}}}", &line[..line.len() - plain.len()]);
        let end = lines[at..].iter().position(|l| {
            *l == close
                || l.trim_end().ends_with(';')
                    && l.starts_with(&close[..close.len() - 1])
                    && !l[close.len() - 1..].starts_with(' ')
        });
        let one_line = line.ends_with('}') || line.ends_with(';');
        found.push((name, if one_line { 1 } else { end.map_or(lines.len() - at, |end| end + 1) }));
    }
    found
}

#[test]
fn the_counter_of_lines_counts() {
    let text = "impl X {\n    pub fn one(&self) -> u8 { 1 }\n    fn two(\n        a: u8,\n    ) -> u8 {\n        a;\n        2\n    }\n}\n";
    assert_eq!(functions(text), [("one".to_string(), 1), ("two".to_string(), 6)]);
}

#[test]
fn every_kernel_file_has_its_operator_file() {
    // What the operators share: no family of its own.
    let shared = ["mod", "case", "gemm", "rows"];
    let mut operators: Vec<String> = fs::read_dir(root().join("src/engine/ops"))
        .unwrap()
        .map(|e| e.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .filter(|o| !shared.contains(&o.as_str()))
        .collect();
    operators.sort();
    let stem =
        |(path, _): (String, String)| Path::new(&path).file_stem().unwrap().to_string_lossy().into_owned();
    let kernels: Vec<String> = files("kernels", &[".cu"]).into_iter().map(stem).collect();
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
    let (mut found, mut looked_at) = (Vec::new(), 0);
    for (path, text) in files("src/engine/ops", &[".rs"]) {
        if path == "src/engine/ops/mod.rs" || path.ends_with("/case.rs") {
            continue;
        }
        for function in code(&text).split("\npub fn ").skip(1) {
            let name = function.split(['(', '<']).next().unwrap();
            let body = function.split("\n}").next().unwrap();
            let an_operator = body.contains("Tensor") || body.contains("run(");
            looked_at += usize::from(an_operator);
            if an_operator && name != "cases" && !covered.contains(&name) {
                found.push(format!("{path}: {name}"));
            }
        }
    }
    assert!(looked_at > 40, "only {looked_at} operators were found");
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

// ---------------------------------------------------------------- words

/// The words (split at underscores and capitals) of a text that are on a list, with the path.
fn banned(folder: &str, endings: &[&str], list: &[&str]) -> Vec<String> {
    let mut found = BTreeSet::new();
    for (path, text) in files(folder, endings) {
        for word in words(&code(&text)).into_iter().filter(|w| list.contains(&w.as_str())) {
            found.insert(format!("{path}: {word}"));
        }
    }
    found.into_iter().collect()
}

#[test]
fn identifiers_are_spelled_as_std_and_pytorch_spell_them() {
    let british = [
        "colour",
        "colours",
        "centre",
        "centred",
        "normalise",
        "normalised",
        "normalisation",
        "initialise",
        "initialiser",
        "optimiser",
        "synchronise",
        "minimise",
        "finalise",
        "behaviour",
        "neighbour",
        "neighbours",
    ];
    let mut found = banned("src", &[".rs"], &british);
    found.extend(banned("kernels", &[".cu", ".cuh"], &british));
    none("British spelling", found);
}

#[test]
fn names_are_the_fields_own() {
    let dialect = [
        ("slide", "ConvProblem"),
        ("worktop", "Workspace"),
        ("painter", "Sampler"),
        ("wish", "Prompt"),
        ("meaning", "TextEmbedding"),
        ("told", "message"),
        ("judge", "ConditionalHead, evaluate"),
        ("judges", "FrozenNetworks"),
        ("eyes", "init_from_damsm"),
        ("told", "message"),
    ];
    let list: Vec<&str> = dialect.iter().map(|(word, _)| *word).collect();
    let mut found = banned("src", &[".rs"], &list);
    found.extend(banned("kernels", &[".cu", ".cuh"], &list));
    none(&format!("words that PyTorch, cuDNN or the papers call otherwise ({dialect:?})"), found);
}

#[test]
fn every_environment_switch_is_documented() {
    let named = |text: &str| -> BTreeSet<String> {
        let is_name = |c: char| c.is_ascii_uppercase() || c == '_';
        let names =
            text.split(|c| !is_name(c)).filter(|w| w.starts_with("ENGINE_") && w.len() > "ENGINE_".len());
        names.map(|w| w.trim_end_matches('_').to_string()).collect()
    };
    // Set by build.rs for the compiler.
    let built_in = ["ENGINE_REVISION", "ENGINE_TARGET", "ENGINE_FEATURES"];
    let mut used = BTreeSet::new();
    for (folder, endings) in [
        ("src", &[".rs"][..]),
        ("tests", &[".rs"]),
        ("benches", &[".rs"]),
        ("tools", &["gpu", "check", ".sh", ".py", ".rs"]),
    ] {
        for (path, text) in files(folder, endings) {
            if path != "tests/tidy.rs" {
                used.extend(named(&text));
            }
        }
    }
    let used: BTreeSet<String> = used.into_iter().filter(|name| !built_in.contains(&name.as_str())).collect();
    let table = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `ENGINE_")).collect::<String>();
    let listed: BTreeSet<String> =
        named(&rows.split('|').filter(|c| c.trim_start().starts_with("`ENGINE_")).collect::<String>());
    none("switches that ARCHITECTURE.md does not list", used.difference(&listed).cloned().collect());
    none("switches that nothing reads", listed.difference(&used).cloned().collect());
}
