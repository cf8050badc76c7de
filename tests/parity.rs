//! Every operator's cases on CUDA against the CPU: outputs and gradients.
//!
//! `ENGINE_CASE=text` keeps the cases with the text in "operator name", `ENGINE_SMALL=1` those that are not large.

mod device;
mod probes;

use mirrorgan_engine::engine::device::with;
use mirrorgan_engine::engine::ops::{Case, families};
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

/// All cases of a family in every way they can be stored and multiplied.
fn family(name: &str) {
    let Some(device) = device::cuda() else { return };
    let Device::Cuda(gpu) = device else { panic!("ENGINE_TEST_DEVICE names no CUDA device") };
    let cases = families().into_iter().find(|(family, _)| *family == name).expect("a family of that name").1;
    let (only, small) =
        (std::env::var("ENGINE_CASE").unwrap_or_default(), std::env::var_os("ENGINE_SMALL").is_some());
    let chosen = |c: &&Case| format!("{} {}", c.op, c.name).contains(&only) && !(small && c.large);
    let (mut worst, mut faults) = ([0.0f64; 3], Vec::new());
    for case in cases.iter().filter(chosen) {
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
macro_rules! families {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            family(stringify!($name));
        })*

        #[test]
        fn every_family_is_compared() {
            let tested = [$(stringify!($name)),*];
            assert_eq!(families().iter().map(|(name, _)| *name).collect::<Vec<_>>(), tested);
        }
    };
}

families! { attention conv embed loss matching matmul norm optim pointwise pool random reduce resample rnn shape softmax }
