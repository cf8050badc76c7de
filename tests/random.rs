//! Random numbers are the same on every device, bit for bit.

mod device;

use mirrorgan_engine::engine::device::{Device, with};
use mirrorgan_engine::engine::ops::random::dropout;
use mirrorgan_engine::engine::tensor::{Rng, Tensor, backward};

/// Draws of every kind, one after the other from one stream, and the stream's end.
fn draws() -> (Vec<Vec<u32>>, Rng) {
    let mut rng = Rng::new(0x1234_5678_9abc_def0, 7);
    let mut found = Vec::new();
    for n in [1, 2, 3, 4, 1001, 200_003] {
        found.push(rng.uniform([n], -0.3, 1.7));
        found.push(rng.normal([n]));
        let x = rng.normal([n]).leaf();
        let y = dropout(&x, 0.37, &mut rng);
        let loss = mirrorgan_engine::engine::tensor::tape::record1(Tensor::scalar(0.0), [&y], {
            let y = y.detach();
            move |_, _| [Some(y)]
        });
        found.push(backward(&loss, &[&x]).take(&x).unwrap());
        found.push(y);
    }
    (found.iter().map(|t| t.to_vec().iter().map(|x| x.to_bits()).collect()).collect(), rng)
}

#[test]
fn a_stream_is_the_same_on_every_device() {
    let Some(device) = device::cuda() else { return };
    let (expected, end) = with(&Device::Cpu, draws);
    let (found, same_end) = with(device, draws);
    assert_eq!(end, same_end);
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found.len(), expected.len());
        let off = found.iter().zip(expected).position(|(f, e)| f != e);
        assert_eq!(off, None, "draw {i} of {} numbers", expected.len());
    }
}
