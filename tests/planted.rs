//! The test of the tests: one bug of each kind is planted into a copy of our kernels, and the emulated driver must name
//! its kernel and line while an operator's case runs.

mod device;
mod probes;

use std::path::{Path, PathBuf};
use std::process::Command;

use mirrorgan_engine::engine::device::with;
use mirrorgan_engine::engine::ops::families;
use mirrorgan_engine::engine::tensor::{Device, Tensor};
use probes::{SEED, analytic};

/// In the child: the case to run, as "operator name".
const CASE: &str = "PLANTED_CASE";

struct Bug {
    file: &'static str,
    /// The text that is replaced where it stands first, and by what.
    from: &'static str,
    to: &'static str,
    /// A case that meets it.
    case: &'static str,
    kernel: &'static str,
    says: &'static str,
    /// File and text of the line that must be named.
    at: (&'static str, &'static str),
}

const PACK_READ: (&str, &str) = ("prelude.cuh", "float4 q = *reinterpret_cast<const float4*>(p);");
const PACK_WRITTEN: (&str, &str) = ("prelude.cuh", "*reinterpret_cast<float4*>(p) = make_float4(");

const BUGS: [Bug; 10] = [
    // An index beyond the end, written and read.
    Bug {
        file: "pointwise.cu",
        from: "store_pack(y + i * N, p);",
        to: "store_pack(y + (i + n) * N, p);",
        case: "tanh image",
        kernel: "tanh_fwd",
        says: "out-of-bounds or invalid global write of 16 bytes",
        at: PACK_WRITTEN,
    },
    Bug {
        file: "embed.cu",
        from: "table + ids[row] * d.d + column",
        to: "table + (ids[row] + d.v) * d.d + column",
        case: "embedding many words",
        kernel: "embed_gather_fwd",
        says: "out-of-bounds or invalid global read of 16 bytes",
        at: PACK_READ,
    },
    // A pack that begins between two.
    Bug {
        file: "pointwise.cu",
        from: "Pack<real> p = load_pack(x + i * N);",
        to: "Pack<real> p = load_pack(x + i * N + 1);",
        case: "tanh image",
        kernel: "tanh_fwd",
        says: "misaligned global access of 16 bytes",
        at: PACK_READ,
    },
    // No barrier between a block's writes and its reads, so that one warp reads what another has not written yet.
    Bug {
        file: "reduce.cu",
        from: "    shared[threadIdx.x] = sum;\n    __syncthreads();",
        to: "    shared[threadIdx.x] = sum;\n",
        case: "mean_rows shared rows",
        kernel: "reduce_middle_fwd",
        says: "shared memory never written in this block",
        at: ("reduce.cu", "sum += shared[r * d.lanes + lane];"),
    },
    // No barrier between a block's reads and its next writes.
    Bug {
        file: "norm.cu",
        from: "            counts[t] = n;\n        }\n        __syncthreads();",
        to: "            counts[t] = n;\n        }\n",
        case: "batch_norm_train",
        kernel: "batch_norm_moments_fwd",
        says: "shared-memory race",
        at: ("norm.cu", "means[i * 256 + t] = mean[i];"),
    },
    // Shared memory that one row of threads does not write.
    Bug {
        file: "reduce.cu",
        from: "    shared[threadIdx.x] = sum;\n",
        to: "    if (row != 1) shared[threadIdx.x] = sum;\n",
        case: "mean_rows shared rows",
        kernel: "reduce_middle_fwd",
        says: "shared memory never written in this block",
        at: ("reduce.cu", "sum += shared[r * d.lanes + lane];"),
    },
    // Two blocks that write to one place.
    Bug {
        file: "reduce.cu",
        from: "doubles(partial)[blockIdx.x] = sum;",
        to: "doubles(partial)[blockIdx.x / 2] = sum;",
        case: "sum several blocks",
        kernel: "reduce_sum_fwd",
        says: "global-memory race",
        at: ("reduce.cu", "doubles(partial)[blockIdx.x / 2] = sum;"),
    },
    // A shuffle whose mask leaves a lane out.
    Bug {
        file: "softmax.cu",
        from: "__shfl_xor_sync(0xffffffffu, x, step)",
        to: "__shfl_xor_sync(0x7fffffffu, x, step)",
        case: "softmax rows",
        kernel: "softmax_lanes_fwd",
        says: "the calling lane is not in the mask it passes",
        at: ("softmax.cu", "__shfl_xor_sync(0x7fffffffu, x, step)"),
    },
    // A barrier after some threads have left.
    Bug {
        file: "reduce.cu",
        from: "    shared[threadIdx.x] = sum;\n",
        to: "    if (column >= d.d) return;\n    shared[threadIdx.x] = sum;\n",
        case: "mean_rows shared rows",
        kernel: "reduce_middle_fwd",
        says: "barrier completes although some threads of the block have exited",
        at: ("reduce.cu", "__syncthreads();"),
    },
    // Asynchronous copies that are not waited for.
    Bug {
        file: "gemm.cuh",
        from: "wait_copies<T::STAGES - 2>();",
        to: "",
        case: "linear row, bias",
        kernel: "matmul_nn_64x64",
        says: "is still in flight (missing wait_group)",
        at: ("gemm.cuh", "float4 q = *reinterpret_cast<const float4*>(p);"),
    },
];

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

/// A copy of the kernels, with the bug.
fn plant(bug: Option<&Bug>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(kernels()).unwrap().flatten() {
        let mut text = std::fs::read_to_string(entry.path()).unwrap();
        if let Some(bug) = bug.filter(|bug| entry.file_name() == bug.file) {
            assert!(text.contains(bug.from), "{} has no '{}' now", bug.file, bug.from);
            text = text.replacen(bug.from, bug.to, 1);
        }
        std::fs::write(folder.path().join(entry.file_name()), text).unwrap();
    }
    folder
}

/// The lines of a file that hold a text, counted from 1.
fn lines_with(path: &Path, text: &str) -> Vec<usize> {
    let all = std::fs::read_to_string(path).unwrap();
    let found: Vec<usize> =
        (1..).zip(all.lines()).filter(|(_, l)| l.contains(text)).map(|(n, _)| n).collect();
    assert!(!found.is_empty(), "{} has no '{text}' now", path.display());
    found
}

/// Runs a case in a child with these kernels; whether it was right, and what was said.
fn run(kernels: &Path, case: &str) -> (bool, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "the_child", "--nocapture"]).env(CASE, case).env("ENGINE_KERNELS", kernels);
    command.env("ENGINE_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("planted"));
    let output = command.env("CUDAEMU_CHECK", "3").output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[test]
fn the_child() {
    let Ok(wanted) = std::env::var(CASE) else { return };
    let device = device::cuda().expect("the parent found NVRTC");
    let cases = families().into_iter().flat_map(|(_, cases)| cases);
    let cases: Vec<_> = cases.filter(|c| format!("{} {}", c.op, c.name).starts_with(&wanted)).collect();
    assert!(!cases.is_empty(), "no case {wanted}");
    for case in cases.iter().take(1) {
        let values = with(&Device::Cpu, || case.values(SEED));
        let moved: Vec<Tensor> = values.iter().map(|x| x.to(device)).collect();
        let (outputs, _) = with(device, || analytic(case, &moved));
        outputs.iter().for_each(|y| drop(y.to_vec()));
    }
}

/// The lines of a file that the report names, as in "/folder/file:12 [ptx ..".
fn lines_named(text: &str, file: &str) -> Vec<usize> {
    let digits = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    text.split(&format!("{file}:")).skip(1).filter_map(digits).collect()
}

#[test]
fn every_planted_bug_is_found_where_it_stands() {
    if device::Emulated::new(false).is_none() {
        return;
    }
    let mut faults = Vec::new();
    for bug in &BUGS {
        let Bug { file, kernel, says, at: (named, text), .. } = bug;
        let folder = plant(Some(bug));
        let expected = lines_with(&folder.path().join(named), text);
        let (right, said) = run(folder.path(), bug.case);
        let place = format!("'{says}' at {named}:{expected:?} for a bug in {file}, {kernel}");
        if right {
            faults.push(format!("{place}: nothing was said"));
        } else if !said.contains(says) || !said.contains(&format!("cudaemu: {kernel}:")) {
            faults.push(format!("{place}: something else was said:\n{said}"));
        } else if !lines_named(&said, named).iter().any(|line| expected.contains(line)) {
            faults.push(format!("{place}: another line is named:\n{said}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

/// Without a bug nothing is said: else the finds above would mean nothing.
#[test]
fn the_kernels_as_they_are_pass_the_same_checks() {
    if device::Emulated::new(false).is_none() {
        return;
    }
    let folder = plant(None);
    let mut cases: Vec<&str> = BUGS.iter().map(|bug| bug.case).collect();
    cases.dedup();
    for case in cases {
        let (right, text) = run(folder.path(), case);
        assert!(right, "{case}: {text}");
    }
}
