//! Every kernel for every architecture that matters and in both storages: it compiles, nothing spills, no more
//! registers are taken than tests/registers.tsv allows, and matrix instructions are where its name promises them.

mod device;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use device::Emulated;
use serde_json::Value;

/// Storages and architectures, as the table's columns.
const STORAGES: [&str; 2] = ["f32", "bf16"];
const ARCHS: [&str; 3] = ["sm_80", "sm_90", "sm_90a"];

/// What a bare `engine` says, with NVRTC and the emulated driver on the loader's path.
fn engine(machine: &Emulated, arguments: &[&str], environment: &[(&str, &str)]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_engine"));
    command.arg("kernels").args(arguments).envs(environment.iter().copied());
    let output = machine.run(&mut command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[derive(Debug)]
struct Kernel {
    name: String,
    storage: String,
    arch: String,
    registers: u64,
    stack: u64,
    spills: u64,
    matrix: u64,
}

impl Kernel {
    fn all(json: &str) -> (String, Vec<Kernel>) {
        let listing: Value = serde_json::from_str(json).unwrap();
        let kernel = |k: &Value| Kernel {
            name: k["kernel"].as_str().unwrap().to_string(),
            storage: k["storage"].as_str().unwrap().to_string(),
            arch: k["arch"].as_str().unwrap().to_string(),
            registers: k["registers"].as_u64().unwrap(),
            stack: k["stack"].as_u64().unwrap(),
            spills: k["spills"].as_u64().unwrap(),
            matrix: k["matrix"].as_u64().unwrap(),
        };
        let kernels = listing["kernels"].as_array().unwrap().iter().map(kernel).collect();
        (listing["nvrtc"].as_str().unwrap().to_string(), kernels)
    }

    fn place(&self) -> String {
        format!("{} ({}, {})", self.name, self.storage, self.arch)
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

// ---------------------------------------------------------------- the table

/// Registers of each kernel in the order of the columns.
#[derive(Debug, PartialEq)]
struct Table {
    nvrtc: String,
    rows: BTreeMap<String, Vec<u64>>,
}

const TITLE: &str = "# registers of a thread; written by: ENGINE_RENEW=1 cargo test --test compile; NVRTC ";

fn columns() -> impl Iterator<Item = (&'static str, &'static str)> {
    STORAGES.into_iter().flat_map(|storage| ARCHS.map(|arch| (storage, arch)))
}

impl Table {
    fn of(nvrtc: &str, kernels: &[Kernel]) -> Table {
        let mut rows: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for kernel in kernels {
            rows.entry(kernel.name.clone()).or_insert_with(|| vec![0; columns().count()]);
            let column = columns().position(|at| at == (&kernel.storage[..], &kernel.arch[..])).unwrap();
            rows.get_mut(&kernel.name).unwrap()[column] = kernel.registers;
        }
        Table { nvrtc: nvrtc.to_string(), rows }
    }

    fn text(&self) -> String {
        let mut text = format!("{TITLE}{}\nkernel", self.nvrtc);
        columns().for_each(|(storage, arch)| write!(text, "\t{storage} {arch}").unwrap());
        for (kernel, registers) in &self.rows {
            write!(text, "\n{kernel}").unwrap();
            registers.iter().for_each(|n| write!(text, "\t{n}").unwrap());
        }
        text + "\n"
    }

    fn read(text: &str) -> Table {
        let mut lines = text.lines();
        let nvrtc =
            lines.next().and_then(|l| l.strip_prefix(TITLE)).expect("the title of the table").to_string();
        let row = |line: &str| {
            let mut cells = line.split('\t').map(str::to_string);
            (cells.next().unwrap(), cells.map(|n| n.parse().unwrap()).collect())
        };
        Table { nvrtc, rows: lines.skip(1).map(row).collect() }
    }

    /// What is worse in `now` than this table allows, or not in both.
    fn broken_by(&self, now: &Table) -> Vec<String> {
        let mut faults = Vec::new();
        for (kernel, registers) in &now.rows {
            let Some(allowed) = self.rows.get(kernel) else {
                faults.push(format!("{kernel} is not in the table"));
                continue;
            };
            let columns = columns().zip(registers.iter().zip(allowed));
            faults.extend(columns.filter(|(_, (now, allowed))| now > allowed).map(
                |((storage, arch), (now, allowed))| {
                    format!("{kernel} ({storage}, {arch}) takes {now} registers, {allowed} are allowed")
                },
            ));
        }
        let gone = self.rows.keys().filter(|kernel| !now.rows.contains_key(*kernel));
        faults.extend(gone.map(|kernel| format!("{kernel} is in the table and in no kernel file")));
        faults
    }
}

// ---------------------------------------------------------------- matrix instructions

/// Whether a kernel's machine code must hold matrix instructions, as its name says: `_tf32` multiplies f32 on the tensor
/// cores, its twin without that word is exact in f32 and uses them for bf16, `_mma` always uses them. None where the
/// name says nothing.
fn promised(name: &str, storage: &str, names: &[&str]) -> Option<bool> {
    let has = |word: &str| name.split('_').any(|part| part == word);
    let twin = |other: &&str| other.split('_').any(|p| p == "tf32") && other.replacen("_tf32", "", 1) == name;
    match storage {
        _ if has("mma") => Some(true),
        "f32" => Some(has("tf32")),
        _ if has("tf32") => None,
        _ => names.iter().any(twin).then_some(true),
    }
}

// ---------------------------------------------------------------- the gate

#[test]
fn every_kernel_compiles_within_its_registers() {
    let Some(machine) = Emulated::new(true) else { return };
    let json =
        engine(&machine, &["--arch", &ARCHS.join(","), "--json"], &[]).unwrap_or_else(|e| panic!("{e}"));
    let (nvrtc, kernels) = Kernel::all(&json);
    let path = root().join("tests/registers.tsv");
    let now = Table::of(&nvrtc, &kernels);
    let mut faults = Vec::new();
    if std::env::var("ENGINE_RENEW").is_ok_and(|v| v == "1") {
        std::fs::write(&path, now.text()).unwrap();
        eprintln!("{} written", path.display());
    } else {
        let table = Table::read(&std::fs::read_to_string(&path).unwrap());
        if table.nvrtc == nvrtc {
            faults.extend(table.broken_by(&now));
        } else {
            device::skip(&format!("the registers: the table is NVRTC {}'s, here is {nvrtc}", table.nvrtc));
        }
    }
    if !faults.is_empty() {
        faults.push("where that is meant: ENGINE_RENEW=1 cargo test --test compile".to_string());
    }
    let names: Vec<&str> = kernels.iter().map(|k| k.name.as_str()).collect();
    for k in &kernels {
        let place = k.place();
        if k.spills > 0 {
            faults.push(format!("{place} spills {} bytes of registers", k.spills));
        } else if k.stack > 0 {
            faults.push(format!(
                "{place} keeps {} bytes in local memory: an array that is indexed by what is not known when compiled?",
                k.stack
            ));
        }
        match promised(&k.name, &k.storage, &names) {
            Some(true) if k.matrix == 0 => faults.push(format!("{place} has no matrix instruction")),
            Some(false) if k.matrix > 0 => {
                faults.push(format!(
                    "{place} has {} matrix instructions, which its name does not say",
                    k.matrix
                ));
            }
            _ => {}
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn names_promise_matrix_instructions() {
    let names = ["conv_64_tf32_bwd", "conv_64_bwd", "add_fwd", "gemm_mma_fwd"];
    let of = |name| STORAGES.map(|storage| promised(name, storage, &names));
    assert_eq!(of("conv_64_tf32_bwd"), [Some(true), None]);
    assert_eq!(of("conv_64_bwd"), [Some(false), Some(true)]);
    assert_eq!(of("add_fwd"), [Some(false), None]);
    assert_eq!(of("gemm_mma_fwd"), [Some(true), Some(true)]);
}

#[test]
fn more_registers_and_other_kernels_break_the_table() {
    let table = |rows: &[(&str, [u64; 6])]| Table {
        nvrtc: "13.0".into(),
        rows: rows.iter().map(|(kernel, registers)| (kernel.to_string(), registers.to_vec())).collect(),
    };
    let old = table(&[("a", [10; 6]), ("b", [20; 6])]);
    assert_eq!(Table::read(&old.text()), old);
    assert_eq!(old.broken_by(&table(&[("a", [10; 6]), ("b", [19; 6])])), Vec::<String>::new());
    let new = table(&[("a", [10, 10, 10, 10, 10, 11]), ("c", [1; 6])]);
    let faults = old.broken_by(&new).join("; ");
    assert_eq!(
        faults,
        "a (bf16, sm_90a) takes 11 registers, 10 are allowed; c is not in the table; b is in the table and in no kernel file"
    );
}

// ---------------------------------------------------------------- the gate's own tools

/// A copy of the kernels, with a text added to one file.
fn kernels_with(file: &str, addition: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(root().join("kernels")).unwrap().flatten() {
        let mut text = std::fs::read_to_string(entry.path()).unwrap();
        if entry.file_name() == file {
            text += addition;
        }
        std::fs::write(folder.path().join(entry.file_name()), text).unwrap();
    }
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// One kernel for each kind of product that the matrix instructions are used for, and one without.
const PROBES: &str = r#"
extern "C" __global__ void probe_bf16(float* y, const unsigned* x) {
    float c[4] = {};
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(x[4]), "r"(x[5]));
    y[0] = c[0] + c[1] + c[2] + c[3];
}
extern "C" __global__ void probe_tf32(float* y, const unsigned* x) {
    float c[4] = {};
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(x[4]), "r"(x[5]));
    y[0] = c[0] + c[1] + c[2] + c[3];
}
extern "C" __global__ void probe_plain(float* y, const float* x) { y[0] = x[0] * x[1] + x[2]; }
extern "C" __global__ void __launch_bounds__(64) probe_stack(float* y, const float* x, int n) {
    volatile float local[32];
    for (int i = 0; i < 32; i++) local[(i * n) & 31] = x[i];
    y[0] = local[n & 31];
}
"#;

#[test]
fn matrix_instructions_and_local_memory_are_seen_in_machine_code() {
    let Some(machine) = Emulated::new(true) else { return };
    let folder = kernels_with("embed.cu", PROBES);
    let arguments = ["embed", "--storage", "f32", "--arch", &ARCHS.join(","), "--json"];
    let environment = [("ENGINE_KERNELS", text(folder.path())), ("ENGINE_CACHE", "")];
    let json = engine(&machine, &arguments, &environment).unwrap_or_else(|e| panic!("{e}"));
    let (_, kernels) = Kernel::all(&json);
    let listing: Value = serde_json::from_str(&json).unwrap();
    for arch in ARCHS {
        let of = |name: &str| kernels.iter().find(|k| k.name == name && k.arch == arch).expect("the probe");
        let matrix = ["probe_bf16", "probe_tf32", "probe_plain"].map(|name| of(name).matrix);
        assert_eq!(matrix, [1, 1, 0], "{arch}: is HMMA's opcode another one?");
        assert!(of("probe_stack").stack >= 128 && of("probe_plain").stack == 0, "{:?}", of("probe_stack"));
    }
    let stack = listing["kernels"].as_array().unwrap().iter().find(|k| k["kernel"] == "probe_stack").unwrap();
    assert_eq!(stack["threads"], 64);
}

#[test]
fn compiled_kernels_are_kept() {
    let Some(machine) = Emulated::new(true) else { return };
    let cache = tempfile::tempdir().unwrap();
    let compile = || {
        let arguments = ["embed", "--storage", "f32", "--compile", "sm_80,compute_75"];
        engine(&machine, &arguments, &[("ENGINE_CACHE", text(cache.path()))]).unwrap()
    };
    assert!(compile().contains("2 compiled, 0 in the cache"));
    assert!(compile().contains("0 compiled, 2 in the cache"));
}

#[test]
fn what_cannot_be_listed_is_said() {
    let Some(machine) = Emulated::new(true) else { return };
    let refused = |arguments: &[&str]| engine(&machine, arguments, &[]).unwrap_err();
    let unknown = refused(&["--arch", "sm_10"]);
    assert!(unknown.contains("sm_10 is not known to NVRTC") && unknown.contains("only sm_75"), "{unknown}");
    assert!(refused(&["--arch", "compute_80"]).contains("compute_80 is PTX"));
    assert!(refused(&["nothing_of_this_name"]).contains("'nothing_of_this_name'"));
    let mut bare = Command::new(env!("CARGO_BIN_EXE_engine"));
    let output = bare.arg("kernels").env_remove("LD_LIBRARY_PATH").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() || said.contains("no NVRTC") && said.contains("tools/nvrtc"), "{said}");
}

#[test]
fn the_profile_names_source_lines() {
    let Some(machine) = Emulated::new(true) else { return };
    let json = engine(&machine, &["--profile", "transpose", "--storage", "f32", "--json"], &[]);
    let json = json.unwrap_or_else(|e| panic!("{e}"));
    let lines: Vec<Value> = serde_json::from_str(&json).unwrap();
    let line = lines.iter().find(|l| l["space"] == "global" && l["kind"] == "store").expect("a store");
    assert!(line["file"] == "shape.cu" || line["file"] == "prelude.cuh", "{line}");
    assert!(
        line["line"].as_u64().unwrap() > 0 && line["sectors"].as_u64() >= line["ideal_sectors"].as_u64(),
        "{line}"
    );
    let words = engine(&machine, &["--profile", "transpose", "--storage", "f32"], &[]).unwrap();
    assert!(words.contains("global memory") && words.contains("source lines are within"), "{words}");
}
