//! Statistics files: those of NumPy, our own, and damaged ones.

use std::fs;
use std::path::Path;

use mirrorgan_engine::eval::{Features, Moments, Statistics, frechet_distance};

use super::super::{close, first, fixture, made, random, refused};

/// The six dimensions that tools/reference/make_metrics.py wrote the moments of.
fn features() -> Features {
    let all = random(1, 300, 48, 2.0, 0.0);
    made(6, 300, |i, j| f64::from(all.row(i)[j]))
}

#[test]
fn files_of_numpy_are_read() {
    let expected = Moments::of(&features()).unwrap();
    for (file, tolerance) in [("deflated.npz", 1e-13), ("stored_f32_fortran.npz", 1e-6)] {
        let found = Statistics::read(&fixture(file), Some(6)).unwrap();
        assert_eq!((found.moments.images, &found.protocol), (None, &None));
        let both = [(&found.moments.mean, &expected.mean), (&found.moments.covariance, &expected.covariance)];
        for (found, expected) in both {
            assert_eq!(found.len(), expected.len());
            found.iter().zip(expected).for_each(|(x, y)| close(*x, *y, tolerance));
        }
        assert!(frechet_distance(&found.moments, &expected).unwrap().value < 1e-6);
    }
}

#[test]
fn own_files_keep_every_bit_the_count_and_the_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("real.npz");
    let protocol = Some(serde_json::json!({"name": "lite0", "resize": "bicubic"}));
    let written = Statistics { moments: Moments::of(&random(1, 300, 48, 2.0, 0.0)).unwrap(), protocol };
    written.write(&path).unwrap();
    assert_eq!(Statistics::read(&path, Some(48)).unwrap(), written);
    assert_eq!(Statistics::read(&path, None).unwrap(), written);
    refused(
        written.write(&folder.path().join("none/real.npz")),
        &["none/real.npz", "cannot be read or written"],
    );
}

#[test]
fn files_that_are_no_statistics_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let read = |bytes: &[u8]| {
        let path = folder.path().join("f.npz");
        fs::write(&path, bytes).unwrap();
        Statistics::read(&path, Some(6))
    };
    refused(
        Statistics::read(&fixture("deflated.npz"), Some(2048)),
        &["mu has the shape [6]", "[2048]", "another network"],
    );
    refused(Statistics::read(&fixture("other_members.npz"), None), &["no 'mu'", "mean, cov"]);
    refused(Statistics::read(Path::new("nowhere.npz"), None), &["nowhere.npz"]);
    refused(read(b"mu: 1, 2, 3"), &["it is no zip", ".npz"]);
    refused(read(b"\x93NUMPY\x01\x00"), &["NumPy array (.npy)", "mu and sigma"]);
    let whole = fs::read(fixture("stored_f32_fortran.npz")).unwrap();
    for length in [whole.len() - 30, whole.len() / 2, 100] {
        refused(read(&whole[..length]), &["its zip is damaged", "copy it again"]);
    }
}

/// One wrong byte anywhere is an error or a place that nobody reads; never a panic.
#[test]
fn a_damaged_byte_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.npz");
    for file in ["stored_f32_fortran.npz", "deflated.npz"] {
        let whole = fs::read(fixture(file)).unwrap();
        let expected = Statistics::read(&fixture(file), None).unwrap();
        let mut refused = 0;
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x11;
            fs::write(&path, &damaged).unwrap();
            match Statistics::read(&path, None) {
                Ok(found) => assert_eq!(found.moments, expected.moments, "{file}, byte {at}"),
                Err(_) => refused += 1,
            }
        }
        assert!(refused > whole.len() / 2, "{refused} of {}", whole.len());
    }
}

#[test]
fn arrays_that_are_no_moments_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.npz");
    let moments = Moments::of(&first(&features(), 50)).unwrap();
    let changed = |change: &dyn Fn(&mut Moments)| {
        let mut moments = moments.clone();
        change(&mut moments);
        Statistics { moments, protocol: None }.write(&path).unwrap();
        Statistics::read(&path, None)
    };
    refused(changed(&|m| m.mean[2] = f64::NAN), &["mu holds NaN at place 2"]);
    refused(changed(&|m| m.covariance[5] = f64::INFINITY), &["sigma holds inf at place 5"]);
    refused(changed(&|m| m.covariance[7] = -1.0), &["the variance -1 at place 1"]);
    refused(changed(&|m| m.covariance[6] += 1.0), &["not symmetric", "at 1, 0"]);
}

/// A header that would overflow, or nest without end, is refused before it is parsed.
#[test]
fn headers_that_harm_a_parser_are_refused() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.npz");
    let nested = "(".repeat(900);
    let shapes = [
        ("(99999999999, 99999999999)", "describes no array"),
        (nested.as_str(), "describes no array"),
        ("(-1,)", "cannot be negative"),
    ];
    for (shape, why) in shapes {
        let header = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut zip = zip::ZipWriter::new(fs::File::create(&path).unwrap());
        zip.start_file("mu.npy", zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(b"\x93NUMPY\x01\x00").unwrap();
        zip.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
        zip.write_all(header.as_bytes()).unwrap();
        zip.finish().unwrap();
        refused(Statistics::read(&path, None), &["mu is damaged", why]);
    }
}
