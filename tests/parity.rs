//! Every operator's cases on CUDA against the CPU: outputs and gradients.
//!
//! `ENGINE_CASE=text` keeps the cases with the text in "operator name", `ENGINE_SMALL=1` those that are not large.

mod device;
mod probes;

use mirrorgan_engine::engine::device::with;
use mirrorgan_engine::engine::ops::{Case, families, for_each_family};
use mirrorgan_engine::engine::tensor::{DType, Device, Precision, Tensor, set_precision};
use probes::{SEED, analytic};

/// Relative error allowed, by how numbers are stored and multiplied.
const F32: f64 = 1e-5;
const TF32: f64 = 1e-3;
const BF16: f64 = 1e-2;

/// ‖found - expected‖ / ‖expected‖; where nothing is expected, ‖found‖.
fn relative(found: &Tensor, expected: &Tensor) -> f64 {
    let (found, expected) = (found.to_vec(), expected.to_vec());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    let off = norm(&mut found.iter().zip(&expected).map(|(&f, &e)| f as f64 - e as f64));
    let size = norm(&mut expected.iter().map(|&e| e as f64));
    if size > 1e-12 { off / size } else { off }
}

type Results = (Vec<Tensor>, Vec<Option<Tensor>>);

/// The largest error of a case, and a line for every result that is off.
fn compare(name: &str, found: &Results, expected: &Results, tolerance: f64) -> (f64, Vec<String>) {
    let mut worst = 0.0f64;
    let mut look = |what: String, found: Option<&Tensor>, expected: Option<&Tensor>| -> Option<String> {
        let (found, expected) = match (found, expected) {
            (Some(found), Some(expected)) => (found, expected),
            (None, None) => return None,
            (found, _) => {
                return Some(format!("{name}: {what} is there: {}, on the CPU not so", found.is_some()));
            }
        };
        if found.shape() != expected.shape() {
            return Some(format!("{name}: {what} is {:?}, on the CPU {:?}", found.shape(), expected.shape()));
        }
        let error = relative(found, expected);
        worst = worst.max(error);
        let right = error <= tolerance;
        (!right).then(|| format!("{name}: {what} {:?} is off by {error:.1e}", found.shape()))
    };
    assert_eq!((found.0.len(), found.1.len()), (expected.0.len(), expected.1.len()), "{name}: results");
    let outputs = found.0.iter().zip(&expected.0).enumerate();
    let mut faults: Vec<String> =
        outputs.filter_map(|(i, (f, e))| look(format!("output {i}"), Some(f), Some(e))).collect();
    let gradients = found.1.iter().zip(&expected.1).enumerate();
    faults.extend(gradients.filter_map(|(i, (f, e))| look(format!("gradient {i}"), f.as_ref(), e.as_ref())));
    (worst, faults)
}

fn moved(values: &[Tensor], device: &Device) -> Vec<Tensor> {
    values.iter().map(|x| x.to(device)).collect()
}

/// Inputs as the case stores them in bf16 on the device, and the same values in f32.
fn rounded(case: &Case, values: &[Tensor]) -> (Vec<Tensor>, Vec<Tensor>) {
    let stored = values
        .iter()
        .enumerate()
        .map(|(i, x)| if case.bf16.contains(&i) { x.cast(DType::Bf16) } else { x.clone() });
    let stored: Vec<Tensor> = stored.collect();
    let same = stored.iter().map(|x| x.cast(DType::F32)).collect();
    (stored, same)
}

/// The cases of a family that ENGINE_CASE and ENGINE_SMALL leave.
fn chosen(name: &str) -> Vec<Case> {
    let only = std::env::var("ENGINE_CASE").unwrap_or_default();
    let small = std::env::var_os("ENGINE_SMALL").is_some();
    let chosen = |c: &Case| format!("{} {}", c.op, c.name).contains(&only) && !(small && c.large);
    let mut matches = 0;
    let mut of_family = Vec::new();
    for (family, cases) in families() {
        let cases: Vec<Case> = cases.into_iter().filter(chosen).collect();
        matches += cases.len();
        if family == name {
            of_family = cases;
        }
    }
    assert!(matches > 0, "no case matches ENGINE_CASE={only}");
    if of_family.is_empty() {
        assert!(!only.is_empty(), "{name} has no case");
        device::skip(&format!("{name} has no case that matches ENGINE_CASE={only}"));
    }
    of_family
}

/// All cases of a family in every way they can be stored and multiplied.
fn family(name: &str) {
    let Some(device) = device::cuda() else { return };
    let Device::Cuda(gpu) = device else { panic!("ENGINE_TEST_DEVICE names no CUDA device") };
    let (mut worst, mut faults) = ([0.0f64; 3], Vec::new());
    for case in &chosen(name) {
        let values = with(&Device::Cpu, || case.values(SEED));
        let expected = analytic(case, &values);
        let on_device = |values: &[Tensor]| with(device, || analytic(case, &moved(values, device)));
        let mut record = |way: usize, kind: &str, found: &Results, expected: &Results, tolerance: f64| {
            let (error, wrong) =
                compare(&format!("{} ({}) {kind}", case.op, case.name), found, expected, tolerance);
            worst[way] = worst[way].max(error);
            faults.extend(wrong);
        };
        record(0, "f32", &on_device(&values), &expected, F32);
        if gpu.tensor_cores() && ["conv", "matmul"].contains(&name) {
            let precise = |precision| with(device, || set_precision(precision).unwrap());
            precise(Precision::Tf32);
            let found = on_device(&values);
            precise(Precision::F32);
            record(1, "tf32", &found, &expected, TF32);
        }
        if !case.bf16.is_empty() {
            let (stored, same) = with(&Device::Cpu, || rounded(case, &values));
            record(2, "bf16", &on_device(&stored), &analytic(case, &same), BF16);
        }
    }
    eprintln!("{name}: largest error f32 {:.1e}, tf32 {:.1e}, bf16 {:.1e}", worst[0], worst[1], worst[2]);
    assert!(faults.is_empty(), "{} results are off:\n{}", faults.len(), faults.join("\n"));
}

/// One test a family.
macro_rules! tests {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            family(stringify!($name));
        })*
    };
}

for_each_family!(tests);
