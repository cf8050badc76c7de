//! What was logged of a phase, as curves that a page can hold.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};

/// The points that a curve is drawn with, at most.
const POINTS: usize = 1000;

/// A value at each of some steps.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Point {
    pub step: u64,
    pub raw: f64,
    pub smooth: f64,
}

#[derive(Clone, Debug)]
pub(super) struct Curve {
    pub name: String,
    pub points: Vec<Point>,
}

/// The values of every tag.
pub(super) struct Logged {
    pub values: BTreeMap<String, Vec<(u64, f64)>>,
    /// Lines that are none of a journal's.
    pub damaged: usize,
}

/// Reads a `metrics.jsonl`; none where there is none.
pub(super) fn read(path: &Path) -> Result<Option<Logged>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path, e)),
    };
    let (mut values, mut damaged) = (BTreeMap::<String, BTreeMap<u64, f64>>::new(), 0);
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(|e| Error::io(path, e))?;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let Some((step, fields)) = parse(&line) else {
            damaged += 1;
            continue;
        };
        for (tag, value) in fields {
            values.entry(tag).or_default().insert(step, value);
        }
    }
    let values = values.into_iter().map(|(tag, steps)| (tag, steps.into_iter().collect())).collect();
    Ok(Some(Logged { values, damaged }))
}

/// The step of a line and its finite values.
fn parse(line: &[u8]) -> Option<(u64, Vec<(String, f64)>)> {
    let Value::Object(fields) = serde_json::from_slice(line).ok()? else { return None };
    let step = fields.get("step")?.as_u64()?;
    let finite = |(tag, value): (String, Value)| Some((tag, value.as_f64().filter(|v| v.is_finite())?));
    Some((step, fields.into_iter().filter(|(tag, _)| tag != "step").filter_map(finite).collect()))
}

impl Curve {
    pub fn new(name: &str, values: &[(u64, f64)]) -> Curve {
        Curve { name: name.to_string(), points: thinned(smoothed(values)) }
    }
}

/// An exponential mean without bias at its begin, whose half-life is a fortieth of the curve.
fn smoothed(values: &[(u64, f64)]) -> Vec<Point> {
    let half_life = values.len() as f64 / 40.0;
    let keep = if half_life < 1.0 { 0.0 } else { 0.5_f64.powf(1.0 / half_life) };
    let (mut sum, mut weight) = (0.0, 0.0);
    let point = |&(step, raw): &(u64, f64)| {
        (sum, weight) = (sum * keep + raw, weight * keep + 1.0);
        Point { step, raw, smooth: sum / weight }
    };
    values.iter().map(point).collect()
}

/// The lowest and the highest point of each piece, so that no peak is lost, and both ends.
fn thinned(points: Vec<Point>) -> Vec<Point> {
    if points.len() <= POINTS {
        return points;
    }
    let inner = &points[1..points.len() - 1];
    let mut kept = vec![points[0].clone()];
    for piece in inner.chunks(inner.len().div_ceil(POINTS / 2 - 1)) {
        let order = |a: &&Point, b: &&Point| a.raw.total_cmp(&b.raw);
        let ends = [piece.iter().min_by(order), piece.iter().max_by(order)];
        let mut ends: Vec<&Point> = ends.into_iter().flatten().collect();
        ends.sort_by_key(|point| point.step);
        ends.dedup();
        kept.extend(ends.into_iter().cloned());
    }
    kept.extend(points.last().cloned());
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_curves_keep_their_peaks_and_ends() {
        let mut values: Vec<(u64, f64)> =
            (1..=50_000).map(|step| (step, (step as f64 / 900.0).sin())).collect();
        values[31_415].1 = 40.0;
        let curve = Curve::new("a", &values);
        assert!((900..=POINTS).contains(&curve.points.len()), "{}", curve.points.len());
        assert!(curve.points.iter().any(|point| point.raw == 40.0));
        assert!(curve.points.windows(2).all(|pair| pair[0].step < pair[1].step));
        assert_eq!([curve.points[0].step, curve.points[curve.points.len() - 1].step], [1, 50_000]);
    }

    #[test]
    fn smoothing_leaves_a_constant_and_short_curves_alone() {
        let constant: Vec<(u64, f64)> = (1..=400).map(|step| (step, 3.0)).collect();
        assert!(Curve::new("a", &constant).points.iter().all(|p| (p.smooth - 3.0).abs() < 1e-12));
        let short = [(1, 5.0), (2, 1.0), (9, 2.0)];
        assert!(Curve::new("a", &short).points.iter().all(|p| p.smooth == p.raw));
    }

    #[test]
    fn damaged_lines_and_values_that_are_no_numbers_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        assert!(read(&path).unwrap().is_none());
        std::fs::write(
            &path,
            "{\"step\":2,\"a\":1.5,\"b\":null}\nnonsense\n\n{\"step\":1,\"a\":2}\n{\"a\":1}\n",
        )
        .unwrap();
        let logged = read(&path).unwrap().unwrap();
        assert_eq!(logged.damaged, 2);
        assert_eq!(
            logged.values.into_iter().collect::<Vec<_>>(),
            [("a".to_string(), vec![(1, 2.0), (2, 1.5)])]
        );
    }
}
