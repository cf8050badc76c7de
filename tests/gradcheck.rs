//! Every operator's backward against finite differences of its forward, over the case table.

mod device;
mod probes;

use mirrorgan_engine::engine::device::with;
use mirrorgan_engine::engine::ops::{Case, cases};
use mirrorgan_engine::engine::tensor::tape::record1;
use mirrorgan_engine::engine::tensor::{Device, Rng, Tensor};
use probes::{SEED, analytic, probes};

const DIRECTIONS: usize = 3;
const COORDINATES: usize = 4;

/// Steps to try: large ones are spoilt by curvature and kinks, small ones by rounding.
const STEPS: [f64; 3] = [1e-2, 3e-3, 1e-3];

/// Σ outputs · probes
fn loss(outputs: &[Tensor], probes: &[Tensor]) -> f64 {
    let dot = |(y, p): (&Tensor, &Tensor)| dot(&y.to_vec(), &p.to_vec());
    outputs.iter().zip(probes).map(dot).sum()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum()
}

/// The derivative along `direction` of one input, by central differences and Richardson's extrapolation,
/// at the step where it changes least when the step is halved.
fn numeric(case: &Case, values: &[Tensor], input: usize, direction: &[f32]) -> f64 {
    let probes = probes(&(case.run)(values));
    let moved = |step: f64| {
        let mut values = values.to_vec();
        let pairs = values[input].to_vec().into_iter().zip(direction);
        let elements = pairs.map(|(x, d)| (x as f64 + step * *d as f64) as f32).collect();
        values[input] = Tensor::from_vec(elements, values[input].shape());
        loss(&(case.run)(&values), &probes)
    };
    let slope = |step: f64| (moved(step) - moved(-step)) / (2.0 * step);
    let estimates = STEPS.map(|step| {
        let (coarse, fine) = (slope(step), slope(step / 2.0));
        ((coarse - fine).abs(), (4.0 * fine - coarse) / 3.0)
    });
    estimates.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap().1
}

/// Random directions, and single coordinates spread over the input.
fn directions(len: usize) -> Vec<(String, Vec<f32>)> {
    let random = (0..DIRECTIONS).map(|i| {
        let draw = || Rng::new(SEED, 2000 + i as u32).uniform([len], -1.0, 1.0);
        let direction = with(&Device::Cpu, draw);
        (format!("direction {i}"), direction.to_vec())
    });
    let single = (0..COORDINATES.min(len)).map(|i| {
        let at = i * len / COORDINATES.min(len);
        let mut direction = vec![0.0; len];
        direction[at] = 1.0;
        (format!("element {at}"), direction)
    });
    random.chain(single).collect()
}

/// What is wrong with the gradients of a case, a line each.
fn faults(case: &Case) -> Vec<String> {
    let name = format!("{} ({})", case.op, case.name);
    let values = case.values(SEED);
    let (_, grads) = analytic(case, &values);
    let mut faults = Vec::new();
    for (input, gradient) in grads.iter().enumerate().filter(|(i, _)| case.inputs[*i].differentiable) {
        let Some(gradient) = gradient else {
            faults.push(format!("{name}: input {input} has no gradient"));
            continue;
        };
        if gradient.shape() != values[input].shape() {
            let shapes = (gradient.shape(), values[input].shape());
            faults.push(format!("{name}: input {input} {:?} has a gradient {:?}", shapes.1, shapes.0));
            continue;
        }
        let gradient = gradient.to_vec();
        for (along, direction) in directions(values[input].len()) {
            let a = dot(&gradient, &direction);
            let n = numeric(case, &values, input, &direction);
            // Parts that cancel in the sum, and gradients far below the others, are lost in rounding.
            let typical = (dot(&gradient, &gradient) / gradient.len() as f64).sqrt();
            let size = a.abs().max(n.abs()).max(0.1 * typical).max(1e-3);
            let right = (a - n).abs() <= case.tolerance as f64 * size;
            if !right {
                faults.push(format!("{name}: input {input}, {along}: backward {a:.6}, differences {n:.6}"));
            }
        }
    }
    faults
}

#[test]
fn every_backward_agrees_with_finite_differences() {
    agree();
}

#[test]
fn on_cuda_as_well() {
    if let Some(device) = device::cuda() {
        with(device, agree);
    }
}

fn agree() {
    let cases: Vec<Case> = cases().into_iter().filter(|c| !c.large).collect();
    let differentiable = cases.iter().filter(|c| c.inputs.iter().any(|i| i.differentiable));
    let count = differentiable.count();
    assert!(count >= 90, "only {count} cases have a gradient to check");
    let faults: Vec<String> = cases.iter().flat_map(faults).collect();
    assert!(faults.is_empty(), "{} wrong gradients:\n{}", faults.len(), faults.join("\n"));
}

/// y = x², with a gradient that is `factor` times the right one.
fn square(x: &Tensor, factor: f32) -> Tensor {
    let squares = x.to_vec().iter().map(|x| x * x).collect();
    let saved = x.detach();
    record1(Tensor::from_vec(squares, x.shape()), [x], move |dy, _| {
        let pairs = dy.as_slice().iter().zip(saved.as_slice());
        [Some(Tensor::from_vec(pairs.map(|(d, x)| factor * 2.0 * d * x).collect(), dy.shape()))]
    })
}

#[test]
fn a_gradient_five_percent_off_is_caught() {
    let planted = |factor: f32| {
        let case = Case::new("square", "planted", move |x| vec![square(&x[0], factor)]);
        faults(&case.input([3, 5]))
    };
    assert_eq!(planted(1.0), [""; 0]);
    assert!(planted(1.05).len() > DIRECTIONS);
}

#[test]
fn a_gradient_that_is_missing_is_caught() {
    let lost = Case::new("lost", "planted", |x| vec![x[0].detach(), x[1].clone()]).input([3]).input([3]);
    assert_eq!(faults(&lost), ["lost (planted): input 0 has no gradient"]);
}
