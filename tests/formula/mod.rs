//! Weights and inputs by formula, so that goldens hold only what is computed from them: each value comes from its
//! tensor's name by FNV-1a and splitmix64. `tools/reference/weights.py` states the same in Python.

/// FNV-1a of 64 bits.
pub fn fnv1a64(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

/// Numbers in [0, 1), exact in f32.
pub fn uniform01(name: &str, count: usize) -> Vec<f64> {
    let seed = fnv1a64(name);
    let value = |i: u64| {
        let mut z = seed.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f64 * 2f64.powi(-24)
    };
    (0..count as u64).map(value).collect()
}

fn uniform(name: &str, count: usize, lo: f64, hi: f64) -> Vec<f32> {
    uniform01(name, count).into_iter().map(|u| (lo + (hi - lo) * u) as f32).collect()
}

/// The range of a parameter's values, from its name and its shape in PyTorch.
fn range_of(key: &str, shape: &[usize]) -> (f64, f64) {
    let leaf = key.rsplit('.').next().unwrap();
    match leaf {
        "running_mean" => return (-0.1, 0.1),
        "running_var" => return (0.5, 1.5),
        _ if leaf.starts_with("bias") => return (-0.1, 0.1),
        _ => {}
    }
    if shape.len() == 1 {
        return if key.contains(".bn3.") || key.contains("._bn2.") { (0.15, 0.25) } else { (0.75, 1.25) };
    }
    if key == "encoder.weight" || key == "embed.weight" {
        return (-1.0, 1.0);
    }
    let fan_in: usize = shape[1..].iter().product();
    let a = (if shape.len() == 4 { 6.0 } else { 3.0 } / fan_in as f64).sqrt();
    (-a, a)
}

/// A parameter of the network `prefix`.
pub fn fill(prefix: &str, key: &str, shape: &[usize]) -> Vec<f32> {
    let count = shape.iter().product();
    if key.ends_with("num_batches_tracked") {
        return vec![0.0; count];
    }
    let (lo, hi) = range_of(key, shape);
    uniform(&format!("{prefix}/{key}"), count, lo, hi)
}

/// An input in [-1, 1).
pub fn tensor(name: &str, shape: &[usize]) -> Vec<f32> {
    uniform(name, shape.iter().product(), -1.0, 1.0)
}

/// Noise of unit variance: the sum of twelve uniforms less six.
pub fn normal(name: &str, shape: &[usize]) -> Vec<f32> {
    let count: usize = shape.iter().product();
    uniform01(name, 12 * count).chunks(12).map(|u| (u.iter().sum::<f64>() - 6.0) as f32).collect()
}

/// Word indices [B,T] from 1, 0 beyond each length.
pub fn captions(vocabulary: usize, lengths: &[usize], width: usize) -> Vec<i32> {
    let mut ids = vec![0; lengths.len() * width];
    for (i, (row, &length)) in ids.chunks_mut(width).zip(lengths).enumerate() {
        for (id, u) in row.iter_mut().zip(uniform01(&format!("caption{i}"), length)) {
            *id = (u * (vocabulary - 1) as f64 + 1.0) as i32;
        }
    }
    ids
}

#[test]
fn the_formula_gives_the_numbers_of_its_python_twin() {
    assert_eq!(fnv1a64("netG/h_net1.fc.0.weight"), 0x6e24_192f_2e7d_0b02);
    assert_eq!(uniform01("z", 3), [0.422721266746521, 0.9537990689277649, 0.7266051173210144]);
    let linear = fill("netG", "h_net1.fc.0.weight", &[4, 6]);
    assert_eq!(linear[..3], [-0.5287884473800659, 0.43872079253196716, -0.189069926738739]);
    assert_eq!(
        fill("x", "a.bn3.weight", &[3]),
        [0.15690301358699799, 0.24726465344429016, 0.21494199335575104]
    );
    let filter = fill("x", "img.0.weight", &[2, 3, 3, 3]);
    assert_eq!(filter[..3], [-0.44400879740715027, 0.02567260153591633, -0.2586074471473694]);
    assert_eq!(fill("x", "a.running_var", &[2]), [0.6946834325790405, 0.7447715997695923]);
    assert_eq!(tensor("words", &[3]), [-0.06165027618408203, -0.3732633590698242, -0.3939462900161743]);
    assert_eq!(normal("eps", &[3]), [-2.2164435386657715, -0.005669713020324707, 0.5925334095954895]);
}
