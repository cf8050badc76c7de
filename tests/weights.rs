//! Checkpoint files: what is written comes back bit for bit under the published names and shapes, and what does
//! not fit says so, all of it at once.

use half::{bf16, f16};
use mirrorgan_engine::engine::nn::{Archive, Array, Scope, Source, Store, Values};
use mirrorgan_engine::engine::tensor::Rng;
use mirrorgan_engine::error::Error;
use mirrorgan_engine::files::atomic;
use mirrorgan_engine::mirrorgan::discriminator::{Discriminator, DiscriminatorConfig, DiscriminatorNorm};
use mirrorgan_engine::mirrorgan::generator::{Generator, GeneratorConfig};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

fn generator(source: Source) -> Result<Store, Error> {
    let config = GeneratorConfig {
        width: 4,
        noise: 6,
        condition: 5,
        stages: 2,
        first_ups: 4,
        residual_blocks: 1,
        sentence_attention: true,
        single_head: false,
    };
    Ok(Store::build(source, |scope| Generator::new(scope, 8, &config))?.1)
}

fn fresh(seed: u64) -> Store {
    generator(Source::Init(Rng::new(seed, 0))).unwrap()
}

fn shape_of<'a>(archive: &'a Archive, name: &str) -> &'a [usize] {
    &archive.get(name).unwrap_or_else(|| panic!("no '{name}'")).shape
}

#[test]
fn a_saved_network_comes_back_bit_for_bit_under_published_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("netG.safetensors");
    let store = fresh(1);
    store.save(&path).unwrap();

    let archive = Archive::read(&path).unwrap();
    assert_eq!(shape_of(&archive, "h_net1.fc.0.weight"), [4 * 16 * 32, 11]);
    assert_eq!(shape_of(&archive, "h_net1.upsample4.1.weight"), [8, 8, 3, 3]);
    assert_eq!(shape_of(&archive, "h_net2.conv.weight"), [8, 12, 1, 1]);
    assert_eq!(shape_of(&archive, "h_net2.att.conv_context.weight"), [4, 8, 1, 1]);
    assert_eq!(shape_of(&archive, "img_net2.img.0.weight"), [3, 4, 3, 3]);
    let batches = archive.get("h_net2.residual.0.block.4.num_batches_tracked").unwrap();
    assert_eq!(batches, &Array { shape: vec![], values: Values::I64(vec![0]) });

    let loaded = generator(Source::Archive(archive)).unwrap();
    assert!(!store.entries().is_empty() && store.entries().len() == loaded.entries().len());
    for (a, b) in store.entries().iter().zip(loaded.entries()) {
        assert_eq!(a.name(), b.name());
        let bits = |x: &[f32]| x.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(a.tensor().as_slice()), bits(b.tensor().as_slice()), "{}", a.name());
    }
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(names, ["netG.safetensors"], "no temporary file stays behind");
}

/// OIHW in the file, [Cout,R,S,Cin] in memory.
#[test]
fn filters_change_their_order_between_file_and_memory() {
    let store = fresh(2);
    let archive = store.archive();
    let param = store.entries().iter().find(|p| p.name() == "img_net1.img.0.weight").unwrap();
    let (ours, published) = (param.tensor(), archive.get(param.name()).unwrap().to_f32());
    let at = |o: usize, i: usize, y: usize, x: usize| published[((o * 4 + i) * 3 + y) * 3 + x];
    for (index, &value) in ours.as_slice().iter().enumerate() {
        let (i, x, y, o) = (index % 4, index / 4 % 3, index / 12 % 3, index / 36);
        assert_eq!(value, at(o, i, y, x));
    }
}

#[test]
fn all_that_does_not_fit_is_told_at_once() {
    let mut archive = fresh(1).archive();
    archive.take("h_net1.upsample1.1.weight").unwrap();
    archive.take("ca_net.fc.bias").unwrap();
    archive.insert("h_net9.conv.weight", Array::f32(&[1], vec![0.0]));
    archive.insert("img_net1.img.0.weight", Array::f32(&[3, 9, 3, 3], vec![0.0; 243]));
    let Err(Error::Weights { missing, unexpected, misshaped, .. }) = generator(Source::Archive(archive))
    else {
        panic!("these weights do not fit");
    };
    assert_eq!(missing, ["ca_net.fc.bias", "h_net1.upsample1.1.weight"]);
    assert_eq!(unexpected, ["h_net9.conv.weight"]);
    assert_eq!(misshaped, ["img_net1.img.0.weight is [3, 9, 3, 3], wanted [3, 4, 3, 3]"]);
}

#[test]
fn files_from_before_batches_were_counted_are_read() {
    let mut archive = fresh(1).archive();
    let counters: Vec<String> =
        archive.names().filter(|n| n.ends_with("num_batches_tracked")).map(str::to_owned).collect();
    assert!(!counters.is_empty());
    counters.iter().for_each(|name| drop(archive.take(name)));
    generator(Source::Archive(archive)).unwrap();
}

#[test]
fn a_misfit_leaves_a_network_as_it_was() {
    let (store, mut other) = (fresh(1), fresh(2).archive());
    let before = store.archive().get("ca_net.fc.weight").cloned();
    other.take("ca_net.fc.bias");
    assert!(store.load(other).is_err());
    assert_eq!(store.archive().get("ca_net.fc.weight").cloned(), before);
}

#[test]
fn a_file_cut_off_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("netG.safetensors");
    fresh(1).save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 5, 100, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let message = Archive::read(&path).unwrap_err().to_string();
        assert!(message.contains("netG.safetensors") && message.contains("copy it again"), "{message}");
    }
    let message = Archive::read(folder.path().join("absent")).unwrap_err().to_string();
    assert!(message.contains("absent"), "{message}");
}

#[test]
fn half_precision_double_precision_and_whole_numbers_are_read() {
    let values = [1.5f32, -0.25, 3.0];
    let bytes = |f: &dyn Fn(f32) -> Vec<u8>| values.iter().flat_map(|&v| f(v)).collect::<Vec<u8>>();
    let stored = [
        ("f16", Dtype::F16, bytes(&|v| f16::from_f32(v).to_le_bytes().to_vec())),
        ("bf16", Dtype::BF16, bytes(&|v| bf16::from_f32(v).to_le_bytes().to_vec())),
        ("f64", Dtype::F64, bytes(&|v| f64::from(v).to_le_bytes().to_vec())),
        ("i64", Dtype::I64, [1i64, -2, 1 << 40].iter().flat_map(|v| v.to_le_bytes()).collect()),
    ];
    let views =
        stored.iter().map(|(name, dtype, data)| (*name, TensorView::new(*dtype, vec![3], data).unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mixed.safetensors");
    atomic::write(&path, &safetensors::serialize(views, None).unwrap()).unwrap();
    let archive = Archive::read(&path).unwrap();
    for name in ["f16", "bf16", "f64"] {
        assert_eq!(archive.get(name), Some(&Array::f32(&[3], values.to_vec())), "{name}");
    }
    assert_eq!(archive.get("i64").unwrap().to_i64(), [1, -2, 1 << 40]);
}

#[test]
fn sections_keep_several_networks_in_one_file() {
    let mut archive = Archive::default();
    archive.add_section("netG", fresh(1).archive());
    archive.add_section("other", fresh(2).archive());
    let section = archive.take_section("netG");
    generator(Source::Archive(section)).unwrap();
    assert!(archive.names().count() > 0 && archive.names().all(|name| name.starts_with("other/")));
}

/// Published sizes have the published names; smaller ones the same, fewer.
#[test]
fn discriminators_of_every_size_name_their_layers_as_published() {
    let config = DiscriminatorConfig { width: 2, unconditional: true, norm: DiscriminatorNorm::Batch };
    let names = |side: usize| -> Vec<String> {
        let make = |scope: &Scope| drop(Discriminator::new(scope, side, 8, &config));
        let store = Store::build(Source::Init(Rng::new(1, 0)), make).unwrap().1;
        let filters = store.params().into_iter().filter(|p| p.tensor().shape().len() == 4);
        let names = filters.map(|p| p.name().trim_end_matches(".weight").to_owned());
        names.filter(|n| n.starts_with("img_code")).collect()
    };
    let s16 = ["img_code_s16.0", "img_code_s16.2", "img_code_s16.5", "img_code_s16.8"];
    assert_eq!(names(16), s16[..2]);
    assert_eq!(names(32), s16[..3]);
    assert_eq!(names(64), s16);
    assert_eq!(names(128), [&s16[..], &["img_code_s32.0", "img_code_s32_1.0"]].concat());
    let s64 = ["img_code_s32.0", "img_code_s64.0", "img_code_s64_1.0", "img_code_s64_2.0"];
    assert_eq!(names(256), [&s16[..], &s64[..]].concat());
}
