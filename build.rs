//! Writes the typed launchers of kernels/*.cu, and what the binary was built from and for.
//!
//! The kernels' text goes into the binary. Every `extern "C" __global__` function gets a Rust function of the same name,
//! and every struct that it takes a `#[repr(C)]` twin, so that a wrong argument is a compile error of Rust. A line
//! `INSTANCES(name, (parameters), (arguments), tiles..)` (kernels/gemm.cuh) gets the launchers of all its kernels and a
//! table of them by tile.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=kernels");
    let out =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo names a folder for what build scripts write"));
    fs::write(out.join("kernels.rs"), launchers(Path::new("kernels"))).expect("that folder can be written");
    revision();
}

fn revision() {
    if let Some(folder) = git(&["rev-parse", "--absolute-git-dir"]) {
        println!("cargo:rerun-if-changed={folder}/HEAD");
        println!("cargo:rerun-if-changed={folder}/logs/HEAD");
    }
    let revision = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_string());
    println!("cargo:rustc-env=ENGINE_REVISION={revision}");
    println!("cargo:rustc-env=ENGINE_TARGET={}", env::var("TARGET").unwrap_or_default());
    println!("cargo:rustc-env=ENGINE_FEATURES={}", env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default());
}

/// What git says, or nothing outside a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_string())
}

// ---------------------------------------------------------------- launchers

/// The Rust text: sources, twins of structs, one launcher a kernel, one table for each line of INSTANCES.
pub fn launchers(folder: &Path) -> String {
    let mut sources: Vec<(String, PathBuf, String)> = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder of the kernels") {
        let path = entry.expect("an entry of the folder of the kernels").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".cu") || name.ends_with(".cuh") {
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            sources.push((name, path, text));
        }
    }
    sources.sort();
    let (mut structs, mut kernels, mut instances) = (Vec::new(), Vec::new(), Vec::new());
    for (name, _, text) in &sources {
        let tokens = tokens(text);
        structs.extend(structs_of(name, &tokens));
        kernels.extend(kernels_of(name, &tokens));
        instances.extend(instances_of(name, &tokens));
    }
    kernels.extend(instances.iter().flat_map(Instances::kernels));
    let mut rust = String::new();
    write_sources(&mut rust, &sources);
    let passed = passed_structs(&structs, &kernels);
    structs.iter().filter(|s| passed.contains(&s.name)).for_each(|s| s.write(&mut rust));
    if kernels.iter().flat_map(|k| &k.parameters).any(|p| p.kind == TENSOR_MAP) {
        rust.push_str(TENSOR_MAP_TWIN);
    }
    kernels.iter().for_each(|k| k.write(&mut rust, &structs));
    if !instances.is_empty() {
        rust.push_str(INSTANCE);
    }
    instances.iter().for_each(|i| i.write(&mut rust, &structs));
    let names: Vec<String> = kernels.iter().map(|k| k.constant()).collect();
    let _ = writeln!(
        rust,
        "pub static KERNELS: &[&Kernel] = &[{}];",
        names.iter().map(|n| format!("&{n}, ")).collect::<String>()
    );
    rust
}

fn write_sources(rust: &mut String, sources: &[(String, PathBuf, String)]) {
    let _ = writeln!(
        rust,
        "/// Name and text of every kernel file and header.\npub static SOURCES: &[(&str, &str)] = &["
    );
    for (name, path, _) in sources {
        let path = fs::canonicalize(path).expect("a file that was just read");
        let _ = writeln!(rust, "    ({name:?}, include_str!({path:?})),");
    }
    let _ = writeln!(rust, "];\n");
}

/// The structs that cross from Rust to a kernel, by value or as rows of a table.
fn passed_structs(structs: &[Struct], kernels: &[Kernel]) -> Vec<String> {
    let types = kernels.iter().flat_map(|k| &k.parameters).map(|p| p.kind.clone());
    structs.iter().map(|s| s.name.clone()).filter(|n| n != "bf16" && types.clone().any(|t| t == *n)).collect()
}

struct Field {
    kind: String,
    name: String,
    /// Elements, where it is an array.
    count: Option<usize>,
}

struct Struct {
    name: String,
    fields: Vec<Field>,
}

#[derive(Clone)]
struct Parameter {
    kind: String,
    name: String,
    constant: bool,
    pointer: bool,
    /// Marked OPTIONAL: null where there is no tensor.
    optional: bool,
}

struct Kernel {
    file: String,
    name: String,
    parameters: Vec<Parameter>,
}

/// One line of INSTANCES: for each tile the kernels `name_TILE` and `name_TILE_tf32`.
struct Instances {
    file: String,
    name: String,
    parameters: Vec<Parameter>,
    tiles: Vec<String>,
}

/// The driver's description of a tensor that the Tensor Memory Accelerator copies.
const TENSOR_MAP: &str = "CUtensorMap";

const TENSOR_MAP_TWIN: &str = "\
/// `CUtensorMap`, by value: 128 bytes that the driver fills.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorMap(pub [u64; 16]);

";

const INSTANCE: &str = "\
/// The launchers of one tile: arithmetic of the kernel file's own kind, and TF32.
pub struct Instance<F> {
    pub tile: &'static str,
    pub native: F,
    pub tf32: F,
}

";

/// Words and single marks, without comments and preprocessor lines.
fn tokens(text: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("/*") {
        plain.push_str(&rest[..at]);
        rest = rest[at..].find("*/").map_or("", |end| &rest[at + end + 2..]);
    }
    plain.push_str(rest);
    let plain = plain.replace("\\\n", " ");
    let lines = plain
        .lines()
        .map(|l| l.split("//").next().unwrap_or(""))
        .filter(|l| !l.trim_start().starts_with('#'));
    let mut found: Vec<String> = Vec::new();
    for line in lines {
        let mut word = String::new();
        for c in line.chars().chain([' ']) {
            if c.is_alphanumeric() || c == '_' {
                word.push(c);
                continue;
            }
            if !word.is_empty() {
                found.push(std::mem::take(&mut word));
            }
            if !c.is_whitespace() {
                found.push(c.to_string());
            }
        }
    }
    found
}

/// The type at the start of `tokens` and what follows it: `unsigned long long x` -> ("unsigned long long", [x]).
fn split_type(tokens: &[String]) -> (String, &[String]) {
    let builtin = ["unsigned", "long", "int", "float", "short", "char", "double"];
    let words = tokens.iter().take_while(|t| builtin.contains(&t.as_str())).count().max(1);
    (tokens[..words].join(" "), &tokens[words..])
}

/// `struct Name { int a, b; float c[4]; };` where all fields are of plain types.
fn structs_of(file: &str, tokens: &[String]) -> Vec<Struct> {
    let mut found = Vec::new();
    for (i, window) in tokens.windows(3).enumerate() {
        let [keyword, name, open] = window else { continue };
        if keyword != "struct" || open != "{" {
            continue;
        }
        let body = &tokens[i + 3..];
        let end = body
            .iter()
            .position(|t| t == "}")
            .unwrap_or_else(|| panic!("{file}: struct {name} does not end"));
        let mut fields = Vec::new();
        let plain = body[..end].split(|t| t == ";").filter(|d| !d.is_empty()).all(|declaration| {
            let (kind, names) = split_type(declaration);
            names.split(|t| t == ",").all(|name| {
                let count = match name {
                    [_] => None,
                    [_, open, count, close] if open == "[" && close == "]" => count.parse().ok(),
                    _ => return false,
                };
                fields.push(Field { kind: kind.clone(), name: name[0].clone(), count });
                true
            })
        });
        if plain {
            found.push(Struct { name: name.clone(), fields });
        }
    }
    found
}

/// `extern "C" __global__ void [__launch_bounds__(..)] name(parameters)`
fn kernels_of(file: &str, tokens: &[String]) -> Vec<Kernel> {
    let starts = tokens.iter().enumerate().filter(|(_, t)| *t == "__global__").map(|(i, _)| i);
    let mut found = Vec::new();
    for start in starts {
        let rest = &tokens[start + 1..];
        let mut at = rest.iter().position(|t| t == "void").map_or(0, |v| v + 1);
        if rest[at] == "__launch_bounds__" {
            at += rest[at..].iter().position(|t| t == ")").unwrap_or(0) + 1;
        }
        let (name, list) = (rest[at].clone(), &rest[at + 2..]);
        let end = list
            .iter()
            .position(|t| t == ")")
            .unwrap_or_else(|| panic!("{file}: {name} has no end of parameters"));
        let parameters = parameters(file, &name, &list[..end]);
        found.push(Kernel { file: file.to_string(), name, parameters });
    }
    found
}

/// `INSTANCES(name, (parameters), (arguments), tile, ..)`
fn instances_of(file: &str, tokens: &[String]) -> Vec<Instances> {
    let starts = tokens.iter().enumerate().filter(|(_, t)| *t == "INSTANCES").map(|(i, _)| i);
    let read = |start: usize| {
        let wrong = || -> ! { panic!("{file}: INSTANCES is (name, (parameters), (arguments), tiles..)") };
        let [open, name, comma, rest @ ..] = &tokens[start + 1..] else { wrong() };
        if [open, comma] != ["(", ","] {
            wrong();
        }
        let mut rest = rest;
        let mut list = || {
            let end = rest.iter().position(|t| t == ")").unwrap_or_else(|| wrong());
            let [open, inner @ ..] = &rest[..end] else { wrong() };
            if open != "(" || rest.get(end + 1).is_none_or(|t| t != ",") {
                wrong();
            }
            rest = &rest[end + 2..];
            inner
        };
        let (taken, passed) = (list(), list());
        let parameters = parameters(file, name, taken);
        let names: Vec<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
        let passed: Vec<&str> = passed.iter().map(String::as_str).filter(|t| *t != ",").collect();
        assert_eq!(names, passed, "{file}: {name} passes on other arguments than it takes");
        let end = rest.iter().position(|t| t == ")").unwrap_or_else(|| wrong());
        let tiles = rest[..end].split(|t| t == ",").map(|tile| tile.concat()).collect();
        Instances { file: file.to_string(), name: name.clone(), parameters, tiles }
    };
    starts.map(read).collect()
}

fn parameters(file: &str, kernel: &str, tokens: &[String]) -> Vec<Parameter> {
    tokens.split(|t| t == ",").map(|p| parameter(file, kernel, p)).collect()
}

fn parameter(file: &str, kernel: &str, tokens: &[String]) -> Parameter {
    let constant = tokens.iter().any(|t| t == "const");
    let pointer = tokens.iter().any(|t| t == "*");
    let optional = tokens.iter().any(|t| t == "OPTIONAL");
    assert!(pointer || !optional, "{file}: {kernel}: only a pointer can be OPTIONAL");
    let marks = ["const", "*", "__restrict__", "__grid_constant__", "OPTIONAL"];
    let words: Vec<String> = tokens.iter().filter(|t| !marks.contains(&t.as_str())).cloned().collect();
    let (kind, rest) = split_type(&words);
    let [name] = rest else { panic!("{file}: {kernel}: cannot read the parameter '{}'", tokens.join(" ")) };
    Parameter { kind, name: name.clone(), constant, pointer, optional }
}

/// The Rust twin of a plain type.
fn scalar(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "int" => "i32",
        "unsigned" | "unsigned int" => "u32",
        "float" => "f32",
        "long long" => "i64",
        "unsigned long long" => "u64",
        _ => return None,
    })
}

impl Struct {
    fn write(&self, rust: &mut String) {
        let _ = writeln!(
            rust,
            "#[repr(C)]\n#[derive(Clone, Copy, Debug, PartialEq)]\npub struct {} {{",
            self.name
        );
        for Field { kind, name, count } in &self.fields {
            let kind = scalar(kind)
                .unwrap_or_else(|| panic!("{}: the type {kind} of {name} has no twin", self.name));
            let kind = count.map_or(kind.to_string(), |n| format!("[{kind}; {n}]"));
            let _ = writeln!(rust, "    pub {name}: {kind},");
        }
        let _ = writeln!(rust, "}}\n");
    }
}

impl Parameter {
    /// Rust type, and the statements that check the argument and make of it what the kernel takes.
    fn rust(&self, file: &str, kernel: &str, structs: &[Struct]) -> (String, String) {
        let Parameter { kind, name, constant, pointer, .. } = self;
        let twin = structs.iter().any(|s| s.name == *kind);
        let view = if *constant { "In" } else { "Out" };
        match (kind.as_str(), pointer, constant) {
            ("real", true, _) => self.view(view, &format!("storage.real({name:?}, view.dtype());")),
            ("float", true, _) => {
                self.view(view, &format!("storage.fixed({name:?}, view.dtype(), DType::F32);"))
            }
            ("bf16", true, _) => {
                self.view(view, &format!("storage.fixed({name:?}, view.dtype(), DType::Bf16);"))
            }
            ("int", true, true) => self.view("Ints", ""),
            (TENSOR_MAP, false, true) => ("TensorMap".into(), format!("let mut {name} = {name};")),
            (_, true, true) if twin => self.view(&format!("&Table<{kind}>"), ""),
            (_, false, _) if twin => (kind.clone(), format!("let mut {name} = {name};")),
            (_, false, _) if scalar(kind).is_some() => {
                (scalar(kind).unwrap_or("").into(), format!("let mut {name} = {name};"))
            }
            _ => panic!("{file}: {kernel}: no Rust type for the parameter {name} of type {kind}"),
        }
    }

    /// A pointer: a view of memory, or an `Option` of one.
    fn view(&self, kind: &str, check: &str) -> (String, String) {
        let Parameter { name, optional, .. } = self;
        let check = check.replace("view", name);
        if !optional {
            return (kind.to_string(), format!("{check}\n    let mut {name} = {name}.address();"));
        }
        let check =
            if check.is_empty() { check } else { format!("if let Some({name}) = {name} {{ {check} }}") };
        (
            format!("Option<{kind}>"),
            format!("{check}\n    let mut {name} = {name}.map_or(0, |view| view.address());"),
        )
    }
}

impl Kernel {
    fn constant(&self) -> String {
        self.name.to_uppercase()
    }

    fn write(&self, rust: &mut String, structs: &[Struct]) {
        let Kernel { file, name, parameters } = self;
        let family = file.trim_end_matches(".cu");
        let typed: Vec<_> = parameters.iter().map(|p| p.rust(file, name, structs)).collect();
        let list: String =
            parameters.iter().zip(&typed).map(|(p, (kind, _))| format!(", {}: {kind}", p.name)).collect();
        let index = format!("Kernel {{ family: {family:?}, name: c{name:?} }}");
        let _ = writeln!(rust, "pub static {}: Kernel = {index};", self.constant());
        let _ = writeln!(rust, "#[track_caller]\n#[allow(clippy::too_many_arguments, unused_mut)]");
        let _ = writeln!(rust, "pub fn {name}(g: &Gpu, grid: Grid{list}) {{");
        let _ = writeln!(rust, "    let mut storage = Storage::of({name:?});");
        typed.iter().for_each(|(_, statement)| {
            let _ = writeln!(rust, "    {statement}");
        });
        let pointers: String = parameters.iter().map(|p| format!("pointer(&mut {}), ", p.name)).collect();
        let _ = writeln!(
            rust,
            "    g.launch(&{}, storage.dtype(), grid, &mut [{pointers}]);\n}}\n",
            self.constant()
        );
    }
}

impl Instances {
    fn kernels(&self) -> Vec<Kernel> {
        let Instances { file, name, parameters, tiles } = self;
        let names = tiles.iter().flat_map(|t| [format!("{name}_{t}"), format!("{name}_{t}_tf32")]);
        names.map(|name| Kernel { file: file.clone(), name, parameters: parameters.clone() }).collect()
    }

    /// The table `NAME: &[Instance<launcher>]`, one row a tile.
    fn write(&self, rust: &mut String, structs: &[Struct]) {
        let Instances { file, name, parameters, tiles } = self;
        let kinds: String =
            parameters.iter().map(|p| format!(", {}", p.rust(file, name, structs).0)).collect();
        let rows: String = tiles
            .iter()
            .map(|t| format!("Instance {{ tile: {t:?}, native: {name}_{t}, tf32: {name}_{t}_tf32 }}, "))
            .collect();
        let table = name.to_uppercase();
        let _ = writeln!(rust, "#[allow(clippy::type_complexity)]");
        let _ = writeln!(rust, "pub static {table}: &[Instance<fn(&Gpu, Grid{kinds})>] = &[{rows}];\n");
    }
}
