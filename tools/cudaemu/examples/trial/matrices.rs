//! Matrix instructions: `wmma`, `mma.sync` on fragments and in a GEMM, `wgmma` from shared memory, fed by threads or TMA.
//!
//! Two sets of numbers each: multiples of 1/8, whose sums must come out exactly, and numbers of many magnitudes, for
//! which the order and the width of the accumulation show.

use crate::formats::{Format, Random};
use crate::gpu::{compare, config, Gpu, Outcome, Source};
use crate::programs::source;
use cudarc::driver::{sys, DevicePtr, DeviceRepr, PushKernelArg};
use Format::{Bf16, Tf32, F16, F32};

/// Error of a sum, relative to the sum of its terms' magnitudes.
const ACCUMULATION: f32 = 4e-6;
/// f16 may round on the way, even sums of few bits.
const F16_ACCUMULATION: f32 = 4e-3;

#[derive(Clone, Copy)]
enum Numbers {
    Exact,
    Wide,
}

impl Numbers {
    const BOTH: [Numbers; 2] = [Numbers::Exact, Numbers::Wide];

    fn draw(self, random: &mut Random, format: Format, count: usize) -> Vec<f32> {
        let mut draw = || match self {
            Numbers::Exact => random.eighths(),
            Numbers::Wide => random.wide(format),
        };
        (0..count).map(|_| draw()).collect()
    }

    fn tolerance(self) -> f32 {
        match self {
            Numbers::Exact => 0.0,
            Numbers::Wide => ACCUMULATION,
        }
    }
}

/// `c + a b` for a (m, k) and b (k, n), and the sums of the terms' magnitudes.
fn multiply(a: &[f32], b: &[f32], c: &[f32], n: usize, k: usize) -> (Vec<f32>, Vec<f32>) {
    let term = |i: usize, x: usize| a[i / n * k + x] as f64 * b[x * n + i % n] as f64;
    let sum = |i: usize| (c[i] as f64 + (0..k).map(|x| term(i, x)).sum::<f64>()) as f32;
    let size = |i: usize| (c[i].abs() as f64 + (0..k).map(|x| term(i, x).abs()).sum::<f64>()) as f32;
    ((0..c.len()).map(sum).collect(), (0..c.len()).map(size).collect())
}

fn transpose(b: &[f32], rows: usize) -> Vec<f32> {
    let columns = b.len() / rows;
    (0..b.len()).map(|i| b[i % rows * columns + i / rows]).collect()
}

fn encode16(format: Format, values: &[f32]) -> Vec<u16> {
    values.iter().map(|&v| format.encode(v) as u16).collect()
}

/// An `mma.sync.m16n8kK`.
pub struct Shape {
    k: usize,
    input: Format,
    accumulator: Format,
    pub capability: i32,
}

pub const SHAPES: &[Shape] = &[
    Shape { k: 8, input: F16, accumulator: F32, capability: 75 },
    Shape { k: 16, input: F16, accumulator: F32, capability: 80 },
    Shape { k: 16, input: F16, accumulator: F16, capability: 80 },
    Shape { k: 8, input: Bf16, accumulator: F32, capability: 80 },
    Shape { k: 16, input: Bf16, accumulator: F32, capability: 80 },
    Shape { k: 4, input: Tf32, accumulator: F32, capability: 80 },
    Shape { k: 8, input: Tf32, accumulator: F32, capability: 80 },
];

const M: usize = 16;
const N: usize = 8;
/// 32-bit words of a lane's stretch of memory.
const STRETCH: usize = 12;

impl Shape {
    pub fn name(&self) -> String {
        format!("mma_m16n8k{}_{}_{}", self.k, self.input.name(), self.accumulator.name())
    }

    /// Registers of A, B and C.
    fn registers(&self) -> [usize; 3] {
        let per = self.input.per_register();
        [M * self.k / 32 / per, self.k * N / 32 / per, M * N / 32 / self.accumulator.per_register()]
    }

    /// Each lane loads its registers of A, B and C and stores those of D in C's place.
    fn source(&self) -> String {
        let [a, b, c] = self.registers();
        let operands = |from: usize, count: usize| {
            let names: Vec<String> = (from..from + count).map(|i| format!("%{i}")).collect();
            format!("{{{}}}", names.join(","))
        };
        let (input, accumulator) = (self.input.name(), self.accumulator.name());
        let instruction = format!(
            "mma.sync.aligned.m16n8k{}.row.col.{accumulator}.{input}.{input}.{accumulator} {}, {}, {}, {};",
            self.k,
            operands(0, c),
            operands(c, a),
            operands(c + a, b),
            operands(0, c)
        );
        let list = |constraint: &str, from: usize, count: usize| {
            (from..from + count).map(|i| format!("\"{constraint}\"(r[{i}])")).collect::<Vec<_>>().join(", ")
        };
        format!(
            "extern \"C\" __global__ void fragments(unsigned* p) {{\n\
               unsigned* r = p + threadIdx.x * {STRETCH};\n\
               asm volatile(\"{instruction}\" : {} : {});\n\
             }}\n",
            list("+r", a + b, c),
            list("r", 0, a + b)
        )
    }
}

// Where element `i` of a lane's fragment is (PTX ISA, "Matrix Fragments for mma.m16n8k..."); the pattern is the same for
// elements of 16 and of 32 bits, two of which or one of which share a register.

fn a_place(lane: usize, i: usize, per: usize) -> (usize, usize) {
    let (register, part) = (i / per, i % per);
    (lane / 4 + register % 2 * 8, (lane % 4 + register / 2 * 4) * per + part)
}

fn b_place(lane: usize, i: usize, per: usize) -> (usize, usize) {
    ((lane % 4 + i / per * 4) * per + i % per, lane / 4)
}

fn c_place(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2)
}

fn pack(format: Format, count: usize, element: impl Fn(usize) -> f32) -> impl Iterator<Item = u32> {
    let per = format.per_register();
    let register = move |r: usize| (0..per).fold(0, |word, i| word | format.encode(element(r * per + i)) << (16 * i));
    (0..count / per).map(register)
}

pub fn mma(gpu: &Gpu, shape: &Shape) -> Outcome {
    const ROUNDS: u64 = 8;
    let Shape { k, input, accumulator, .. } = *shape;
    let text = shape.source();
    let function =
        gpu.load(Source { name: "fragments.cu", text: &text, is_hopper: false })?.load_function("fragments")?;
    let tolerance = |numbers: Numbers| match accumulator {
        F16 => F16_ACCUMULATION,
        _ => numbers.tolerance(),
    };
    let [ra, rb, rc] = shape.registers();
    let per = input.per_register();
    for (numbers, round) in Numbers::BOTH.into_iter().flat_map(|n| (0..ROUNDS).map(move |r| (n, r))) {
        let mut random = Random::new(round + 10);
        let (a, b) = (numbers.draw(&mut random, input, M * k), numbers.draw(&mut random, input, k * N));
        let c = numbers.draw(&mut random, accumulator, M * N);
        let mut words = vec![];
        for lane in 0..32 {
            let place = |(row, column): (usize, usize), width: usize| row * width + column;
            words.extend(pack(input, ra * per, |i| a[place(a_place(lane, i, per), k)]));
            words.extend(pack(input, rb * per, |i| b[place(b_place(lane, i, per), N)]));
            words.extend(pack(accumulator, 4, |i| c[place(c_place(lane, i), N)]));
            words.resize((lane + 1) * STRETCH, 0);
        }
        let mut memory = gpu.upload(&words)?;
        let mut launch = gpu.stream.launch_builder(&function);
        launch.arg(&mut memory);
        // SAFETY: the kernel's parameters
        unsafe { launch.launch(config((1, 1), (32, 1), 0)) }?;
        let words = gpu.download(&memory)?;
        let mut got = vec![0f32; M * N];
        for (lane, i) in (0..32).flat_map(|lane| (0..4).map(move |i| (lane, i))) {
            let per = accumulator.per_register();
            let word = words[lane * STRETCH + ra + rb + i / per] >> (i % per * 16);
            let (row, column) = c_place(lane, i);
            got[row * N + column] = accumulator.decode(if per == 2 { word & 0xffff } else { word });
        }
        debug_assert_eq!(rc * accumulator.per_register(), 4);
        let (expected, sizes) = multiply(&a, &b, &c, N, k);
        compare(&got, &expected, |i| tolerance(numbers) * sizes[i])?;
    }
    Ok(())
}

/// C (m, n) by a kernel that takes A, B, C, m, n and k.
fn half_gemm(gpu: &Gpu, file: Source, name: &str, format: Format, tile: usize, threads: u32) -> Outcome {
    let (m, n, k) = (128usize, 64usize, 96usize);
    let function = gpu.load(file)?.load_function(name)?;
    for numbers in Numbers::BOTH {
        let mut random = Random::new(20);
        let (a, b) = (numbers.draw(&mut random, format, m * k), numbers.draw(&mut random, format, k * n));
        let (da, db) = (gpu.upload(&encode16(format, &a))?, gpu.upload(&encode16(format, &b))?);
        let mut c = gpu.stream.alloc_zeros::<f32>(m * n)?;
        let (mi, ni, ki) = (m as i32, n as i32, k as i32);
        let mut launch = gpu.stream.launch_builder(&function);
        launch.arg(&da).arg(&db).arg(&mut c).arg(&mi).arg(&ni).arg(&ki);
        // SAFETY: the kernel's parameters
        unsafe { launch.launch(config((n / tile, m / tile), (threads, 1), 0)) }?;
        let (expected, sizes) = multiply(&a, &b, &vec![0.0; m * n], n, k);
        compare(&gpu.download(&c)?, &expected, |i| numbers.tolerance() * sizes[i])?;
    }
    Ok(())
}

pub fn wmma_gemm(gpu: &Gpu) -> Outcome {
    half_gemm(gpu, source!("half.cu"), "wmma_gemm", F16, 16, 32)
}

pub fn mma_gemm(gpu: &Gpu, name: &str) -> Outcome {
    let format = if name.ends_with("bf16") { Bf16 } else { F16 };
    half_gemm(gpu, source!("mma_gemm.cu"), name, format, 64, 128)
}

/// A 64 x 64 tile of A B^T.
pub fn wgmma(gpu: &Gpu, name: &str) -> Outcome {
    let (m, n, k) = (64usize, 64usize, 64usize);
    let format = [F16, Bf16, Tf32].into_iter().find(|f| name.ends_with(&format!("_{}", f.name()))).ok_or("format")?;
    let function = gpu.load(source!("wgmma.cu", true))?.load_function(name)?;
    for numbers in Numbers::BOTH {
        let mut random = Random::new(30);
        let (a, b) = (numbers.draw(&mut random, format, m * k), numbers.draw(&mut random, format, k * n));
        let bytes = |values: &[f32]| -> Vec<u8> {
            let width = 4 / format.per_register();
            values.iter().flat_map(|&v| format.encode(v).to_le_bytes()[..width].to_vec()).collect()
        };
        let (da, db) = (gpu.upload(&bytes(&a))?, gpu.upload(&bytes(&transpose(&b, k)))?);
        let mut c = gpu.stream.alloc_zeros::<f32>(m * n)?;
        let ki = k as i32;
        let mut launch = gpu.stream.launch_builder(&function);
        launch.arg(&da).arg(&db).arg(&mut c).arg(&ki);
        // SAFETY: the kernel's parameters
        unsafe { launch.launch(config((1, 1), (128, 1), 0)) }?;
        let (expected, sizes) = multiply(&a, &b, &vec![0.0; m * n], n, k);
        compare(&gpu.download(&c)?, &expected, |i| numbers.tolerance() * sizes[i])?;
    }
    Ok(())
}

#[repr(C, align(64))]
struct TensorMap(sys::CUtensorMap);

// SAFETY: plain data, passed by value
unsafe impl DeviceRepr for TensorMap {}

/// Rows of `k` f16 at `address`, in boxes of 64 x 64, swizzled by 128 bytes.
fn tensor_map(address: u64, rows: usize, k: usize) -> Outcome<TensorMap> {
    let mut map = std::mem::MaybeUninit::<TensorMap>::uninit();
    let (extents, strides) = ([k as u64, rows as u64], [2 * k as u64]);
    let (boxes, element_strides) = ([64u32, 64], [1u32, 1]);
    // SAFETY: the arrays have the rank's lengths
    unsafe {
        sys::cuTensorMapEncodeTiled(
            map.as_mut_ptr().cast(),
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            2,
            address as *mut _,
            extents.as_ptr(),
            strides.as_ptr(),
            boxes.as_ptr(),
            element_strides.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
        .result()?;
        Ok(map.assume_init())
    }
}

/// A GEMM whose edges TMA fills with zeros.
pub fn tma_wgmma(gpu: &Gpu) -> Outcome {
    const SHARED: u32 = 32768 + 1024; // room to align it
    let (m, n, k) = (100usize, 72usize, 256usize);
    let function = gpu.load(source!("tma.cu", true))?.load_function("tma_wgmma")?;
    for numbers in Numbers::BOTH {
        let mut random = Random::new(40);
        let (a, b) = (numbers.draw(&mut random, F16, m * k), numbers.draw(&mut random, F16, k * n));
        let (da, db) = (gpu.upload(&encode16(F16, &a))?, gpu.upload(&encode16(F16, &transpose(&b, k)))?);
        let mut c = gpu.stream.alloc_zeros::<f32>(m * n)?;
        let (map_a, map_b) =
            (tensor_map(da.device_ptr(&gpu.stream).0, m, k)?, tensor_map(db.device_ptr(&gpu.stream).0, n, k)?);
        let (mi, ni, ki) = (m as i32, n as i32, k as i32);
        let mut launch = gpu.stream.launch_builder(&function);
        launch.arg(&map_a).arg(&map_b).arg(&mut c).arg(&mi).arg(&ni).arg(&ki);
        // SAFETY: the kernel's parameters
        unsafe { launch.launch(config((n.div_ceil(64), m.div_ceil(64)), (128, 1), SHARED)) }?;
        let (expected, sizes) = multiply(&a, &b, &vec![0.0; m * n], n, k);
        compare(&gpu.download(&c)?, &expected, |i| numbers.tolerance() * sizes[i])?;
    }
    Ok(())
}
