//! Metrics against torch-fidelity's and clean-fid's figures, exact cases, and what they refuse.

use std::path::{Path, PathBuf};

use mirrorgan_engine::error::Error;
use mirrorgan_engine::eval::{
    Collector, Features, Moments, Subsets, diversity, frechet_distance, inception_score, kernel_distance,
    monge_distance, nearest, precision_recall, r_precision,
};

mod metrics {
    pub mod statistics;
}

/// A folder's files are found where the tests' data are.
pub fn fixture(name: &str) -> PathBuf {
    let root = std::env::var_os("ENGINE_TESTS").map(PathBuf::from);
    let root = root.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"));
    root.join("fixtures/metrics").join(name)
}

fn golden(file: &str, path: &[&str]) -> f64 {
    let text = std::fs::read_to_string(fixture(file)).unwrap();
    let values: serde_json::Value = serde_json::from_str(&text).unwrap();
    path.iter().fold(&values, |value, key| &value[key]).as_f64().unwrap_or_else(|| panic!("{path:?}"))
}

fn made(width: usize, count: usize, f: impl Fn(usize, usize) -> f64) -> Features {
    let rows: Vec<Vec<f32>> = (0..count).map(|i| (0..width).map(|j| f(i, j) as f32).collect()).collect();
    Features::of_rows(width, rows.iter().map(Vec::as_slice)).unwrap()
}

/// The formula of metrics.json.
fn formula(first: usize, count: usize, scale: f64, shift: f64) -> Features {
    made(64, count, |i, j| {
        let (i, j) = ((first + i) as f64, j as f64);
        ((0.37 * i + 0.011 * i * j).sin() + 0.5 * (1.7 * j + 0.05 * i).cos()) * scale + shift
    })
}

fn sets() -> (Features, Features) {
    (formula(0, 400, 1.0, 0.0), formula(1000, 400, 1.1, 0.05))
}

/// The pseudo-random features of tools/reference/make_metrics.py.
fn random(seed: u64, count: usize, width: usize, scale: f64, shift: f64) -> Features {
    let mixed = |x: u64| {
        let x = ((x ^ (x >> 16)) * 0x7FEB_352D) & 0xFFFF_FFFF;
        let x = ((x ^ (x >> 15)) * 0x846C_A68B) & 0xFFFF_FFFF;
        x ^ (x >> 16)
    };
    made(width, count, |i, j| {
        let at = ((i * width + j) * 4) as u64 + (seed << 24);
        let sum: f64 = (0..4).map(|k| mixed(at + k) as f64 / 4_294_967_296.0).sum();
        (sum - 2.0) * scale + shift
    })
}

fn scaled(features: &Features, factor: f64) -> Features {
    made(features.width(), features.len(), |i, j| f64::from((f64::from(features.row(i)[j]) * factor) as f32))
}

fn first(features: &Features, count: usize) -> Features {
    made(features.width(), count, |i, j| f64::from(features.row(i)[j]))
}

#[track_caller]
fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found} is not {expected} ± {tolerance}");
}

fn frechet(a: &Features, b: &Features) -> f64 {
    frechet_distance(&Moments::of(a).unwrap(), &Moments::of(b).unwrap()).unwrap().value
}

#[test]
fn the_formula_gives_the_recorded_features() {
    let (a, b) = sets();
    let text = std::fs::read_to_string(fixture("formula.json")).unwrap();
    let values: serde_json::Value = serde_json::from_str(&text).unwrap();
    close(f64::from(a.row(3)[5]), values["A[3,5],B[3,5]"][0].as_f64().unwrap(), 0.0);
    close(f64::from(b.row(3)[5]), values["A[3,5],B[3,5]"][1].as_f64().unwrap(), 0.0);
    let text = std::fs::read_to_string(fixture("random.json")).unwrap();
    let values: serde_json::Value = serde_json::from_str(&text).unwrap();
    close(
        f64::from(random(2, 260, 48, 2.3, 0.1).row(7)[5]),
        values["x[7,5],y[7,5]"][1].as_f64().unwrap(),
        0.0,
    );
}

#[test]
fn the_frechet_distance_is_that_of_torch_fidelity_and_clean_fid() {
    let (a, b) = sets();
    let torch_fidelity = golden("formula.json", &["fid_torch_fidelity", "frechet_inception_distance"]);
    close(frechet(&a, &b), torch_fidelity, 1e-9);
    close(frechet(&a, &b), golden("formula.json", &["fid_cleanfid_sqrtm"]), 1e-9);
    let (x, y) = (random(1, 300, 48, 2.0, 0.0), random(2, 260, 48, 2.3, 0.1));
    close(frechet(&x, &y), golden("random.json", &["fid", "frechet_inception_distance"]), 1e-9);
}

/// Forty images of 64 dimensions. The roots of eigenvalues that are 0 but for rounding make up the seventh digit of any
/// program's figure: with numbers of 60 digits the distance is 46.06226560820637.
#[test]
fn a_covariance_without_full_rank_gives_a_number() {
    let (a, b) = sets();
    let (a, b) = (Moments::of(&first(&a, 40)).unwrap(), Moments::of(&b).unwrap());
    let found = frechet_distance(&a, &b).unwrap();
    close(found.value, 46.062_265_608_206_37, 1e-6);
    close(found.value, golden("formula.json", &["fid_rank_deficient_40_vs_400_cleanfid"]), 2e-6);
    assert!(found.ranks[0] < 40 && found.ranks[1] > 60, "{:?}", found.ranks);
    assert!(
        found.warnings[0].contains("40 images are no more than the 64 dimensions"),
        "{:?}",
        found.warnings
    );
    assert!(frechet_distance(&b, &b).unwrap().warnings.is_empty());
}

#[test]
fn a_shift_of_one_in_every_dimension_is_the_number_of_dimensions() {
    let width = 2048;
    let identity = (0..width * width).map(|at| if at % (width + 1) == 0 { 1.0 } else { 0.0 }).collect();
    let at_0 = Moments { mean: vec![0.0; width], covariance: identity, images: None };
    let at_1 = Moments { mean: vec![1.0; width], ..at_0.clone() };
    assert_eq!(frechet_distance(&at_0, &at_1).unwrap().value, 2048.0);
    assert_eq!(frechet_distance(&at_0, &at_0).unwrap().value, 0.0);
}

#[test]
fn a_set_is_at_no_distance_from_itself() {
    let (a, _) = sets();
    for set in [&a, &first(&a, 40), &random(1, 300, 48, 2.0, 0.0), &random(3, 90, 300, 5.0, 1.0)] {
        let found = frechet(set, set);
        assert!((0.0..1e-9).contains(&found), "{found}");
        let own = precision_recall(set, set, 3).unwrap();
        assert_eq!((own.precision, own.recall), (1.0, 1.0));
        assert_eq!(monge_distance(set, set, 10, 0).unwrap().value, 0.0);
        let itself = nearest(set, set, 1).unwrap();
        assert!(itself.iter().enumerate().all(|(i, n)| n[0].image == i as u64 && n[0].distance == 0.0));
    }
    let constant = made(3, 5, |_, j| j as f64);
    assert_eq!(frechet(&constant, &constant), 0.0);
    assert_eq!(frechet(&constant, &made(3, 5, |_, j| j as f64 + 2.0)), 12.0);
}

#[test]
fn the_kernel_distance_is_that_of_torch_fidelity() {
    let (a, b) = sets();
    let expected = golden("formula.json", &["kid_poly_all400_1subset", "kernel_inception_distance_mean"]);
    close(kernel_distance(&a, &b, Subsets::All).unwrap().value, expected, 1e-9);
    let drawn = kernel_distance(&a, &b, Subsets::Drawn { count: 1, size: 400, seed: 5 }).unwrap();
    close(drawn.value, expected, 1e-9);
    assert_eq!(drawn.deviation, 0.0);
    let (x, y) = (random(1, 300, 48, 2.0, 0.0), random(2, 260, 48, 2.3, 0.1));
    let expected = golden("random.json", &["kid_first260_1subset", "kernel_inception_distance_mean"]);
    close(kernel_distance(&first(&x, 260), &y, Subsets::All).unwrap().value, expected, 1e-9);
    assert_eq!(Subsets::clean_fid(7, &x, &y), Subsets::Drawn { count: 100, size: 260, seed: 7 });
}

/// Its mean is that of all images within what the subsets' scatter allows, here of 100 drawn by NumPy too.
#[test]
fn subsets_scatter_about_the_distance_of_all() {
    let (a, b) = sets();
    let subsets = Subsets::Drawn { count: 100, size: 100, seed: 3 };
    let found = kernel_distance(&a, &b, subsets).unwrap();
    let recorded = |key| golden("formula.json", &["kid_default_rng2020_100x100", key]);
    let deviation = recorded("kernel_inception_distance_std");
    assert!((0.8..1.25).contains(&(found.deviation / deviation)), "{} {deviation}", found.deviation);
    close(found.value, recorded("kernel_inception_distance_mean"), 0.4 * deviation);
    assert_eq!(found, kernel_distance(&a, &b, subsets).unwrap());
    let other = Subsets::Drawn { count: 100, size: 100, seed: 4 };
    assert_ne!(found.value, kernel_distance(&a, &b, other).unwrap().value);
}

/// Of few images of one distribution the mean over draws is 0: the estimate has no bias that numbers would make.
#[test]
fn the_kernel_distance_of_few_images_has_no_bias() {
    let draws: Vec<f64> = (0..200)
        .map(|draw| {
            let (x, y) = (random(10 + 2 * draw, 12, 8, 2.0, 0.0), random(11 + 2 * draw, 7, 8, 2.0, 0.0));
            kernel_distance(&x, &y, Subsets::All).unwrap().value
        })
        .collect();
    let mean = draws.iter().sum::<f64>() / 200.0;
    let error = (draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 200.0 / 200.0).sqrt();
    assert!(mean.abs() < 3.0 * error, "{mean} ± {error}");
    assert!(draws.iter().any(|x| *x < 0.0) && draws.iter().any(|x| *x > 0.0));
}

#[test]
fn the_inception_score_is_that_of_torch_fidelity() {
    let (a, _) = sets();
    let found = inception_score(&scaled(&a, 3.0), 10, None).unwrap();
    let recorded = |key| golden("formula.json", &["isc_10splits_noshuffle_logits=3A", key]);
    // The recorded logits were 3A in f64, these are f32: hence not 1e-9.
    close(found.value, recorded("inception_score_mean"), 1e-6);
    close(found.deviation, recorded("inception_score_std"), 1e-6);
    let found = inception_score(&scaled(&random(1, 300, 48, 2.0, 0.0), 2.0), 7, None).unwrap();
    close(found.value, golden("random.json", &["isc_7splits_logits=2x", "inception_score_mean"]), 1e-9);
    close(found.deviation, golden("random.json", &["isc_7splits_logits=2x", "inception_score_std"]), 1e-9);
    let shuffled = inception_score(&scaled(&a, 3.0), 10, Some(1)).unwrap();
    let recorded = |key| golden("formula.json", &["isc_10splits_shuffle2020", key]);
    close(shuffled.value, recorded("inception_score_mean"), 3.0 * recorded("inception_score_std"));
    assert_eq!(shuffled, inception_score(&scaled(&a, 3.0), 10, Some(1)).unwrap());
}

#[test]
fn the_inception_score_of_sure_and_even_classes_is_their_number() {
    let sure = made(8, 80, |i, j| if i % 8 == j { 800.0 } else { 0.0 });
    close(inception_score(&sure, 10, None).unwrap().value, 8.0, 1e-12);
    assert_eq!(inception_score(&made(8, 80, |_, _| 2.0), 10, None).unwrap().value, 1.0);
}

#[test]
fn precision_and_recall_are_those_of_torch_fidelity() {
    let check = |generated: &Features, real: &Features, k, file, key| {
        let found = precision_recall(generated, real, k).unwrap();
        // Recorded in f32.
        close(found.precision, golden(file, &[key, "precision"]), 1e-7);
        close(found.recall, golden(file, &[key, "recall"]), 1e-7);
        close(found.f_score, golden(file, &[key, "f_score"]), 1e-7);
    };
    let (a, b) = sets();
    check(&a, &b, 3, "formula.json", "prc_k3");
    let (x, y) = (random(1, 300, 48, 2.0, 0.0), random(2, 260, 48, 2.3, 0.1));
    check(&x, &y, 3, "random.json", "prc_k3");
    check(&x, &y, 5, "random.json", "prc_k5");
}

#[test]
fn the_monge_distance_of_a_shift_is_three_times_its_square() {
    let (width, shift) = (16, 0.7);
    let (x, y) = (random(1, 6000, width, 1.7, 0.0), random(2, 6000, width, 1.7, shift));
    let expected = 3.0 * width as f64 * shift * shift;
    let found = monge_distance(&x, &y, 1000, 0).unwrap();
    close(found.value, expected, 4.0 * found.error + 0.02 * expected);
    let fewer = monge_distance(&first(&x, 2500), &y, 1000, 0).unwrap();
    close(fewer.value, expected, 4.0 * found.error + 0.04 * expected);
    // The very sets, shifted: only the directions are drawn.
    let moved = made(width, x.len(), |i, j| f64::from(x.row(i)[j]) + shift);
    let found = monge_distance(&x, &moved, 1000, 0).unwrap();
    close(found.value, expected, 4.0 * found.error);
    let (a, b) = sets();
    let recorded = golden("formula.json", &["mind_1000proj_seed2020(torch rng)", "monge_inception_distance"]);
    let found = monge_distance(&a, &b, 1000, 0).unwrap();
    close(found.value, recorded, 5.0 * found.error);
}

/// Twice every image is the same distribution.
#[test]
fn the_monge_distance_is_of_distributions() {
    let (a, b) = sets();
    let twice = made(64, 800, |i, j| f64::from(a.row(i / 2)[j]));
    let (one, two) = (monge_distance(&a, &b, 50, 1).unwrap(), monge_distance(&twice, &b, 50, 1).unwrap());
    close(one.value, two.value, 1e-12);
    assert!(monge_distance(&twice, &a, 50, 1).unwrap().value < 1e-12);
}

#[test]
fn a_collapsed_generator_has_no_diversity_within_a_caption() {
    let captions: Vec<u64> = (0..600).map(|i| i / 6).collect();
    let collapsed = random(1, 100, 32, 1.0, 0.0);
    let collapsed = made(32, 600, |i, j| f64::from(collapsed.row(i / 6)[j]));
    let found = diversity(&collapsed, &captions).unwrap();
    assert_eq!((found.within.euclidean, found.ratio), (0.0, Some(0.0)));
    assert!(found.within.cosine.abs() < 1e-12 && found.between.unwrap().euclidean > 1.0);
    let varied = diversity(&random(1, 600, 32, 1.0, 0.0), &captions).unwrap();
    close(varied.ratio.unwrap(), 1.0, 0.02);
    assert_eq!((varied.captions, varied.within.pairs), (100, 1500));
    assert_eq!(varied.between.unwrap().pairs, 600 * 599 / 2 - 1500);
    // Two captions of 2 and 1 images at known places.
    let points = [[0.0, 3.0], [4.0, 0.0], [0.0, 0.0]];
    let found = diversity(&made(2, 3, |i, j| points[i][j]), &[9, 9, 1]).unwrap();
    assert_eq!((found.within.euclidean, found.within.cosine), (5.0, 1.0));
    assert_eq!(found.between.unwrap().euclidean, 3.5);
    assert!(found.warnings[0].starts_with("1 captions"), "{:?}", found.warnings);
}

#[test]
fn images_that_equal_their_captions_find_them_all() {
    let one_hot = |shift: usize| made(20, 20, |i, j| if j == (i + shift) % 20 { 1.0 } else { 0.0 });
    let (images, shifted) = (one_hot(0), one_hot(1));
    let classes: Vec<i32> = (0..20).collect();
    let value = |captions, candidates| {
        r_precision(&images, captions, &classes, candidates, 1, 0).map(|found| found.top[0].value)
    };
    assert_eq!(value(&images, 10).unwrap(), 1.0);
    assert_eq!(value(&shifted, 10).unwrap(), 0.0);
    let error = value(&shifted, 21).unwrap_err().to_string();
    assert!(error.contains("fewer than 20 captions of other classes"), "{error}");
}

#[test]
fn r_precision_of_noise_is_chance_and_rises_with_k() {
    let (images, captions) = (random(1, 3000, 16, 1.0, 0.0), random(2, 3000, 16, 1.0, 0.0));
    let classes: Vec<i32> = (0..3000).map(|i| i % 50).collect();
    let found = r_precision(&images, &captions, &classes, 100, 10, 0).unwrap();
    for top in found.top {
        let chance = top.k as f64 / 100.0;
        close(top.value, chance, 4.0 * (chance / 3000.0).sqrt());
        assert!(top.deviation > 0.0 && top.deviation < 0.02, "{top:?}");
    }
    let other = r_precision(&images, &captions, &classes, 100, 10, 1).unwrap();
    assert_ne!(found.top[0].value, other.top[0].value);
}

#[test]
fn the_nearest_are_found_with_their_distances() {
    let set = made(2, 700, |i, _| i as f64);
    let found = nearest(&made(2, 300, |i, _| i as f64 + 0.25), &set, 3).unwrap();
    for (i, neighbors) in found.iter().enumerate().skip(1) {
        let images: Vec<u64> = neighbors.iter().map(|n| n.image).collect();
        assert_eq!(images, [i as u64, i as u64 + 1, i as u64 - 1]);
        close(neighbors[0].distance, 0.25 * 2f64.sqrt(), 1e-12);
    }
    // Equally near ones by number.
    let images: Vec<u64> =
        nearest(&made(2, 1, |_, _| 5.0), &set, 3).unwrap()[0].iter().map(|n| n.image).collect();
    assert_eq!(images, [5, 4, 6]);
}

/// Everything that is computed, as its bits.
fn all_metrics(a: &Features, b: &Features) -> String {
    let (captions, classes): (Vec<u64>, Vec<i32>) =
        (0..a.len()).map(|i| (i as u64 / 5, i as i32 % 20)).unzip();
    let subsets = Subsets::Drawn { count: 7, size: 300, seed: 1 };
    let (p, q) = (Moments::of(a).unwrap(), Moments::of(b).unwrap());
    format!(
        "{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}",
        p,
        frechet_distance(&p, &q).unwrap(),
        kernel_distance(a, b, Subsets::All).unwrap(),
        kernel_distance(a, b, subsets).unwrap(),
        inception_score(a, 10, Some(3)).unwrap(),
        precision_recall(a, b, 3).unwrap(),
        monge_distance(a, b, 100, 0).unwrap(),
        diversity(a, &captions).unwrap(),
        r_precision(a, b, &classes, 100, 10, 0).unwrap(),
        nearest(a, b, 3).unwrap(),
        inception_score(a, 10, None).unwrap(),
    )
}

#[test]
fn neither_the_order_of_images_nor_threads_change_a_bit() {
    let (a, b) = (random(1, 600, 300, 1.0, 0.0), random(2, 600, 300, 1.1, 0.1));
    let expected = all_metrics(&a, &b);
    let disordered = |set: &Features| {
        let mut collector = Collector::new(set.width());
        for at in 0..set.len() {
            let image = (at * 7 + 3) % set.len();
            collector.push(image as u64, set.row(image)).unwrap();
        }
        collector.finish().unwrap()
    };
    let (c, d) = (disordered(&a), disordered(&b));
    assert_eq!(c, a);
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert!(pool.install(|| all_metrics(&c, &d)) == expected, "{threads} threads");
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, words: &[&str]) {
    let message = result.unwrap_err().to_string();
    assert!(words.iter().all(|word| message.contains(word)), "{message}");
}

#[test]
fn features_that_are_none_are_refused_with_their_image() {
    let mut collector = Collector::new(3);
    refused(
        collector.push(17, &[0.0, f32::NAN, 1.0]),
        &["image 17", "1 of 3 are not finite", "number 1 is NaN"],
    );
    refused(
        collector.push(18, &[f32::INFINITY, 0.0, -f32::INFINITY]),
        &["image 18", "2 of 3", "number 0 is inf"],
    );
    refused(collector.push(19, &[0.0; 4]), &["image 19", "4 numbers", "have 3"]);
    assert!(collector.is_empty());
    collector.push(20, &[0.0; 3]).unwrap();
    collector.push(20, &[1.0; 3]).unwrap();
    refused(collector.finish(), &["image 20", "came twice"]);
}

#[test]
fn sets_that_do_not_fit_are_refused() {
    let (a, wide) = (random(1, 50, 8, 1.0, 0.0), random(1, 50, 9, 1.0, 0.0));
    let widths = ["8 features", "9 on the other"];
    refused(frechet_distance(&Moments::of(&a).unwrap(), &Moments::of(&wide).unwrap()), &widths);
    refused(kernel_distance(&a, &wide, Subsets::All), &widths);
    refused(precision_recall(&a, &wide, 3), &widths);
    refused(monge_distance(&a, &wide, 10, 0), &widths);
    refused(nearest(&a, &wide, 1), &widths);
    refused(r_precision(&a, &wide, &[0; 50], 10, 1, 0), &widths);
}

#[test]
fn too_few_images_are_refused() {
    let (a, one, three) = (random(1, 50, 8, 1.0, 0.0), random(2, 1, 8, 1.0, 0.0), random(3, 3, 8, 1.0, 0.0));
    let subsets = |count, size| Subsets::Drawn { count, size, seed: 0 };
    refused(Moments::of(&one), &["covariance", "1 images", "at least 2"]);
    refused(kernel_distance(&a, &one, Subsets::All), &["kernel distance: 1 images, and at least 2"]);
    refused(
        kernel_distance(&a, &a, Subsets::torch_fidelity(0)),
        &["subsets of 1000", "of 50", "smaller subsets"],
    );
    refused(kernel_distance(&a, &a, subsets(0, 10)), &["0 subsets"]);
    refused(kernel_distance(&a, &a, subsets(5, 1)), &["of two images"]);
    refused(precision_recall(&a, &three, 3), &["3 images, and at least 4"]);
    refused(precision_recall(&a, &a, 0), &["k must be at least 1"]);
    refused(inception_score(&three, 10, None), &["3 images in 10 splits"]);
    refused(inception_score(&three, 0, None), &["0 splits"]);
    refused(inception_score(&random(1, 20, 1, 1.0, 0.0), 2, None), &["one class"]);
    refused(monge_distance(&a, &Collector::new(8).finish().unwrap(), 10, 0), &["0 images"]);
    refused(monge_distance(&a, &a, 0, 0), &["no directions"]);
    refused(diversity(&three, &[1, 2, 3]), &["no caption has two"]);
    refused(nearest(&a, &three, 4), &["3 images, and at least 4"]);
    refused(nearest(&a, &three, 0), &["k must be at least 1"]);
    refused(r_precision(&a, &a, &[7; 50], 10, 1, 0), &["fewer than 9 captions of other classes"]);
    refused(r_precision(&three, &three, &[0, 1, 2], 3, 10, 0), &["3 images in 10 folds"]);
    refused(r_precision(&three, &three, &[0, 1, 2], 1, 1, 0), &["1 candidates"]);
}

/// 30,000 images of 2,048 features on both sides: time, and memory beside the features. Run by hand:
/// `cargo test --release --test metrics -- --ignored --nocapture`.
#[test]
#[ignore = "minutes of work on half a GiB: a measurement"]
fn thirty_thousand_images_take_less_than_a_minute() {
    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    };
    let big = |seed: u32, shift: f32| {
        let mut collector = Collector::new(2048);
        let mut state = seed;
        for image in 0..30_000 {
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / 16_777_216.0 + shift
            };
            let row: Vec<f32> = (0..2048).map(|_| next()).collect();
            collector.push(image, &row).unwrap();
        }
        collector.finish().unwrap()
    };
    let a = big(1, 0.0);
    let features = peak();
    let begin = std::time::Instant::now();
    let moments = Moments::of(&a).unwrap();
    let of_moments = begin.elapsed();
    let other = Moments { mean: moments.mean.iter().map(|x| x + 0.1).collect(), ..moments.clone() };
    let found = frechet_distance(&moments, &other).unwrap();
    let all = begin.elapsed();
    println!(
        "moments {of_moments:.1?}, with the distance {all:.1?}, {:.0} MiB beside the features: {found:?}",
        peak() - features
    );
    close(found.value, 20.48, 1e-6);
    assert!(all.as_secs() < 60 && peak() - features < 300.0);
    drop((moments, other));
    let b = big(2, 0.02);
    let timed = |what: &str, f: &dyn Fn() -> String| {
        let begin = std::time::Instant::now();
        let found = f();
        println!("{what}: {:.1?}, peak {:.0} MiB: {found}", begin.elapsed(), peak());
    };
    timed("KID", &|| format!("{:?}", kernel_distance(&a, &b, Subsets::torch_fidelity(0)).unwrap()));
    timed("MIND", &|| format!("{:?}", monge_distance(&a, &b, 1000, 0).unwrap()));
    let captions: Vec<u64> = (0..30_000).map(|i| i / 10).collect();
    let classes: Vec<i32> = (0..30_000).map(|i| i / 600).collect();
    timed("R-precision", &|| format!("{:?}", r_precision(&a, &b, &classes, 100, 10, 0).unwrap()));
    timed("diversity", &|| format!("{:?}", diversity(&a, &captions).unwrap()));
    timed("precision and recall", &|| format!("{:?}", precision_recall(&a, &b, 3).unwrap()));
}
