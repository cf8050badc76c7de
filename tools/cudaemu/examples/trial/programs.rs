//! Ordinary kernels, and the driver's streams and graphs.

use crate::formats::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16, Random};
use crate::gpu::{compare, config, Gpu, Outcome, Source};
use cudarc::driver::{sys, PushKernelArg};
use std::time::Instant;

macro_rules! source {
    ($name:literal) => {
        source!($name, false)
    };
    ($name:literal, $is_hopper:expr) => {
        Source { name: $name, text: include_str!(concat!("kernels/", $name)), is_hopper: $is_hopper }
    };
}
pub(crate) use source;

pub fn gemm(gpu: &Gpu, name: &str, block: (u32, u32), tile: usize, shared: u32) -> Outcome {
    let (m, n, k) = (70usize, 50usize, 45usize);
    let mut random = Random::new(1);
    let (a, b) = (random.units(m * k), random.units(k * n));
    let (da, db) = (gpu.upload(&a)?, gpu.upload(&b)?);
    let mut c = gpu.stream.alloc_zeros::<f32>(m * n)?;
    let function = gpu.load(source!("gemm.cu"))?.load_function(name)?;
    let (mi, ni, ki) = (m as i32, n as i32, k as i32);
    let mut launch = gpu.stream.launch_builder(&function);
    launch.arg(&da).arg(&db).arg(&mut c).arg(&mi).arg(&ni).arg(&ki);
    // SAFETY: the kernel's parameters
    unsafe { launch.launch(config((n.div_ceil(tile), m.div_ceil(tile)), block, shared)) }?;
    let element = |i: usize| (0..k).map(|x| a[i / n * k + x] * b[x * n + i % n]).sum();
    compare(&gpu.download(&c)?, &(0..m * n).map(element).collect::<Vec<f32>>(), |_| 1e-4)
}

pub fn softmax(gpu: &Gpu) -> Outcome {
    let (rows, n) = (5usize, 333usize);
    let x: Vec<f32> = Random::new(2).units(rows * n).iter().map(|v| 4.0 * v).collect();
    let dx = gpu.upload(&x)?;
    let mut dy = gpu.stream.alloc_zeros::<f32>(rows * n)?;
    let function = gpu.load(source!("softmax.cu"))?.load_function("softmax_row")?;
    let ni = n as i32;
    let mut launch = gpu.stream.launch_builder(&function);
    launch.arg(&dx).arg(&mut dy).arg(&ni);
    // SAFETY: the kernel's parameters
    unsafe { launch.launch(config((rows, 1), (128, 1), 0)) }?;
    let row = |row: &[f32]| {
        let sum: f32 = row.iter().map(|v| v.exp()).sum();
        row.iter().map(|v| v.exp() / sum).collect::<Vec<f32>>()
    };
    let expected: Vec<f32> = x.chunks(n).flat_map(row).collect();
    compare(&gpu.download(&dy)?, &expected, |_| 1e-6)
}

pub fn histogram(gpu: &Gpu) -> Outcome {
    const BINS: usize = 77;
    let (n, bins) = (10_000i32, BINS as i32);
    let mut random = Random::new(3);
    let indices: Vec<i32> = (0..n).map(|_| random.below(BINS as u64) as i32).collect();
    let mut expected = [0u32; BINS];
    indices.iter().for_each(|&i| expected[i as usize] += 1);
    let di = gpu.upload(&indices)?;
    let mut counts = gpu.stream.alloc_zeros::<u32>(BINS)?;
    let function = gpu.load(source!("hist.cu"))?.load_function("histogram")?;
    let mut launch = gpu.stream.launch_builder(&function);
    launch.arg(&di).arg(&mut counts).arg(&n).arg(&bins);
    // SAFETY: the kernel's parameters
    unsafe { launch.launch(config((7, 1), (128, 1), 4 * BINS as u32)) }?;
    let got = gpu.download(&counts)?;
    if got == expected {
        Ok(())
    } else {
        Err(format!("{got:?}, expected {expected:?}").into())
    }
}

pub fn embedding_gradient(gpu: &Gpu) -> Outcome {
    let (tokens, width, rows) = (50usize, 40usize, 9usize);
    let mut random = Random::new(4);
    let ids: Vec<i32> = (0..tokens).map(|_| random.below(rows as u64) as i32).collect();
    let dy = random.units(tokens * width);
    let mut expected = vec![0f32; rows * width];
    for (i, v) in dy.iter().enumerate() {
        expected[ids[i / width] as usize * width + i % width] += v;
    }
    let (di, ddy) = (gpu.upload(&ids)?, gpu.upload(&dy)?);
    let mut dw = gpu.stream.alloc_zeros::<f32>(rows * width)?;
    let function = gpu.load(source!("hist.cu"))?.load_function("embed_wgrad")?;
    let (ti, wi) = (tokens as i32, width as i32);
    let mut launch = gpu.stream.launch_builder(&function);
    launch.arg(&di).arg(&ddy).arg(&mut dw).arg(&ti).arg(&wi);
    // SAFETY: the kernel's parameters
    unsafe { launch.launch(config((1, tokens), (64, 1), 0)) }?;
    compare(&gpu.download(&dw)?, &expected, |_| 1e-4)
}

/// libdevice's functions over a wide range, and 64-bit integers.
pub fn maths(gpu: &Gpu) -> Outcome {
    unsafe extern "C" {
        safe fn erf(x: f64) -> f64;
    }
    let n = 4000usize;
    let mut random = Random::new(9);
    let x: Vec<f32> = (0..n).map(|i| (random.unit() * 10f64.powi(i as i32 % 8)) as f32).collect();
    let xd: Vec<f64> = (0..n).map(|i| random.unit() * 10f64.powi(i as i32 % 14)).collect();
    let a: Vec<u64> = (0..n).map(|_| random.bits() << 11 | random.below(2048)).collect();
    let (dx, dxd, da) = (gpu.upload(&x)?, gpu.upload(&xd)?, gpu.upload(&a)?);
    let mut s = gpu.stream.alloc_zeros::<f32>(n)?;
    let mut sd = gpu.stream.alloc_zeros::<f64>(n)?;
    let mut b = gpu.stream.alloc_zeros::<u64>(n)?;
    let function = gpu.load(source!("maths.cu"))?.load_function("maths")?;
    let ni = n as i32;
    let mut launch = gpu.stream.launch_builder(&function);
    launch.arg(&dx).arg(&mut s).arg(&dxd).arg(&mut sd).arg(&da).arg(&mut b).arg(&ni);
    // SAFETY: the kernel's parameters
    unsafe { launch.launch(config((n.div_ceil(128), 1), (128, 1), 0)) }?;
    let value = |&v: &f32| {
        let (v, size) = (v as f64, v.abs() as f64);
        let sum = v.sin() + (-size).exp() + (1.0 + size).ln() + erf(v);
        (sum + size.powf(0.3) + 1.0 / (1.0 + v * v).sqrt()) as f32
    };
    let expected: Vec<f32> = x.iter().map(value).collect();
    compare(&gpu.download(&s)?, &expected, |i| 3e-6 * expected[i].abs().max(1.0))?;
    let got = gpu.download(&sd)?;
    let is_right = |i: usize| (got[i] - (xd[i].sin() + xd[i].tanh())).abs() <= 1e-14;
    let wrong = (0..n).find(|&i| !is_right(i));
    if let Some(i) = wrong {
        return Err(format!("f64: sin + tanh of {:e} is {:e}", xd[i], got[i]).into());
    }
    let product = |v: u64| ((v as u128 * v.wrapping_mul(7) as u128) >> 64) as u64;
    let expected: Vec<u64> = a.iter().map(|&v| product(v).wrapping_add(v / 10).wrapping_add(v % 13)).collect();
    if gpu.download(&b)? != expected {
        return Err("64-bit integers".into());
    }
    Ok(())
}

pub fn half_arithmetic(gpu: &Gpu) -> Outcome {
    let pairs = 1000usize;
    let mut random = Random::new(5);
    let x: Vec<u16> = random.units(2 * pairs).iter().map(|v| f32_to_f16(2.0 * v)).collect();
    let u: Vec<u16> = random.units(pairs).iter().map(|v| f32_to_bf16(9.0 * v)).collect();
    let (dx, du) = (gpu.upload(&x)?, gpu.upload(&u)?);
    let (mut dy, mut dv) = (gpu.stream.alloc_zeros::<u16>(2 * pairs)?, gpu.stream.alloc_zeros::<u16>(pairs)?);
    let function = gpu.load(source!("half.cu"))?.load_function("half_ew")?;
    let ni = pairs as i32;
    let mut launch = gpu.stream.launch_builder(&function);
    launch.arg(&dx).arg(&mut dy).arg(&du).arg(&mut dv).arg(&ni);
    // SAFETY: the kernel's parameters
    unsafe { launch.launch(config((pairs.div_ceil(128), 1), (128, 1), 0)) }?;
    let rounded = |v: f32| f16_to_f32(f32_to_f16(v));
    let element = |i: usize| {
        let v = f16_to_f32(x[i]);
        let activated = if i.is_multiple_of(2) { v / (1.0 + (-v).exp()) } else { v.tanh() };
        rounded(rounded(activated) + rounded(v * v))
    };
    let expected: Vec<f32> = (0..2 * pairs).map(element).collect();
    let got: Vec<f32> = gpu.download(&dy)?.into_iter().map(f16_to_f32).collect();
    compare(&got, &expected, |_| 4e-3)?;
    let expected: Vec<f32> = u.iter().map(|&h| bf16_to_f32(h) * 0.5 + bf16_to_f32(h).sin()).collect();
    let got: Vec<f32> = gpu.download(&dv)?.into_iter().map(bf16_to_f32).collect();
    compare(&got, &expected, |_| 2e-2)
}

/// A captured launch does nothing until the graph is launched.
pub fn graph(gpu: &Gpu) -> Outcome {
    let function = gpu.load(source!("bad.cu"))?.load_function("fine")?;
    let stream = gpu.context.new_stream()?;
    let mut p = stream.alloc_zeros::<f32>(64)?;
    stream.synchronize()?;
    // SAFETY: everything is on one stream; cudarc's events would tie the capture to work outside it
    unsafe { gpu.context.disable_event_tracking() };
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)?;
    let mut launch = stream.launch_builder(&function);
    launch.arg(&mut p);
    // SAFETY: the kernel's parameters
    unsafe { launch.launch(config((1, 1), (64, 1), 0)) }?;
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags)?.ok_or("no graph")?;
    compare(&stream.clone_dtoh(&p)?, &[0.0; 64], |_| 0.0)?;
    graph.launch()?;
    let got = stream.clone_dtoh(&p)?;
    stream.synchronize()?;
    // SAFETY: as above
    unsafe { gpu.context.enable_event_tracking() };
    compare(&got, &[1.0; 64], |_| 0.0)
}

/// One stream waits for another's event.
pub fn streams(gpu: &Gpu) -> Outcome {
    let n = 1 << 16;
    let (first, second) = (gpu.context.new_stream()?, gpu.context.new_stream()?);
    let values = Random::new(6).units(n);
    let source = first.clone_htod(&values)?;
    let mut copy = second.alloc_zeros::<f32>(n)?;
    let ready = first.record_event(None)?;
    second.wait(&ready)?;
    second.memcpy_dtod(&source, &mut copy)?;
    let got = second.clone_dtoh(&copy)?;
    second.synchronize()?;
    compare(&got, &values, |_| 0.0)
}

/// MFLOP/s of some kernels.
pub fn speed(gpu: &Gpu) -> Outcome {
    let gemm = gpu.load(source!("gemm.cu"))?;
    let mut kernels = vec![(&gemm, "gemm16", 256usize, 16, (16, 16), 0), (&gemm, "gemm64", 512, 64, (256, 1), 8192)];
    let mma = if gpu.capability >= 80 { Some(gpu.load(source!("mma_gemm.cu"))?) } else { None };
    kernels.extend(mma.iter().map(|module| (module, "mma_gemm_f16", 512, 64, (128, 1), 0)));
    for (module, name, n, tile, block, shared) in kernels {
        let function = module.load_function(name)?;
        let (a, b) = (gpu.stream.alloc_zeros::<f32>(n * n)?, gpu.stream.alloc_zeros::<f32>(n * n)?);
        let mut c = gpu.stream.alloc_zeros::<f32>(n * n)?;
        let ni = n as i32;
        gpu.stream.synchronize()?;
        let started = Instant::now();
        let mut launch = gpu.stream.launch_builder(&function);
        launch.arg(&a).arg(&b).arg(&mut c).arg(&ni).arg(&ni).arg(&ni);
        // SAFETY: the kernel's parameters
        unsafe { launch.launch(config((n / tile, n / tile), block, shared)) }?;
        gpu.stream.synchronize()?;
        let seconds = started.elapsed().as_secs_f64();
        println!("{name} {n}^3: {:.1} ms, {:.0} MFLOP/s", seconds * 1e3, 2.0 * (n as f64).powi(3) / seconds / 1e6);
    }
    Ok(())
}
