//! Curves as a chart in SVG: a pale line of the values, a strong one of their running mean; `page.js` reads the values under the
//! pointer from the attributes.

use std::fmt::Write;

use super::curve::{Curve, Point};
use super::html::{Html, el, number, tag};

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 240.0;
/// Room beside the plot: left, right, top, bottom.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 30.0;
/// Colors of `page.css`.
const COLORS: usize = 8;
/// A curve of this many points or fewer shows each.
const FEW: usize = 40;

pub(super) struct Chart {
    pub title: String,
    pub curves: Vec<Curve>,
    /// The values are shares.
    pub shares: bool,
}

/// The values of an axis and where they are drawn.
struct Axis {
    from: f64,
    to: f64,
    logarithmic: bool,
    ticks: Vec<f64>,
}

impl Chart {
    pub fn html(&self) -> Html {
        let named = self.curves.len() > 1;
        let entry = |(i, curve): (usize, &Curve)| {
            let last = curve.points.last().map_or(String::new(), |point| number(point.smooth));
            let swatch = el("i", &[("class", &color(i))], "");
            let name = if named { curve.name.as_str() } else { "last" };
            tag("span", vec![swatch, format!("{name} ").into(), tag("b", last)])
        };
        let legend = self.curves.iter().enumerate().map(entry).collect::<Html>();
        let caption = vec![tag("h4", self.title.as_str()), el("div", &[("class", "legend")], legend)];
        el("figure", &[("class", "chart")], vec![tag("figcaption", caption), self.svg()])
    }

    fn svg(&self) -> Html {
        let steps = || self.curves.iter().flat_map(|curve| &curve.points).map(|point| point.step as f64);
        let (first, last) = (steps().fold(f64::MAX, f64::min), steps().fold(f64::MIN, f64::max));
        let x = Axis::of_steps(first, last);
        let y = if self.shares { Axis::of_shares() } else { Axis::of_values(&self.curves) };
        let mut parts = vec![grid(&x, &y)];
        parts.extend(self.curves.iter().enumerate().map(|(i, curve)| drawn(curve, i, &x, &y)));
        parts.push(el("line", &[("class", "cursor"), ("y1", &px(TOP)), ("y2", &px(HEIGHT - BOTTOM))], ""));
        let [from, to] = [x.from, x.to].map(|value| value.to_string());
        let label = format!("{}, steps {} to {}", self.title, number(first), number(last));
        let attributes = [
            ("viewBox", format!("0 0 {WIDTH} {HEIGHT}")),
            ("role", "img".to_string()),
            ("aria-label", label),
            ("data-from", from),
            ("data-to", to),
            ("data-left", px(LEFT)),
            ("data-right", px(WIDTH - RIGHT)),
        ];
        let attributes: Vec<(&str, &str)> = attributes.iter().map(|(n, v)| (*n, v.as_str())).collect();
        el("svg", &attributes, parts)
    }
}

impl Axis {
    fn of_steps(first: f64, last: f64) -> Axis {
        let (from, to) = if first < last { (first, last) } else { (first - 1.0, last + 1.0) };
        let ticks =
            ticks(from, to, 6.0).into_iter().filter(|tick| tick.fract() == 0.0 && *tick >= 0.0).collect();
        Axis { from, to, logarithmic: false, ticks }
    }

    fn of_shares() -> Axis {
        Axis { from: 0.0, to: 1.0, logarithmic: false, ticks: vec![0.0, 0.25, 0.5, 0.75, 1.0] }
    }

    /// As wide as the running means and nearly all values; logarithmic where they are of several magnitudes.
    fn of_values(curves: &[Curve]) -> Axis {
        let points = || curves.iter().flat_map(|curve| &curve.points);
        let mut raw: Vec<f64> = points().map(|point| point.raw).collect();
        raw.sort_by(f64::total_cmp);
        let share = |of: f64| raw[((raw.len() - 1) as f64 * of).round() as usize];
        let means = points().map(|point| point.smooth);
        let (low, high) =
            means.fold((share(0.005), share(0.995)), |(low, high), mean| (low.min(mean), high.max(mean)));
        if low > 0.0 && high / low > 50.0 {
            return Axis {
                from: low / 1.15,
                to: high * 1.15,
                logarithmic: true,
                ticks: powers(low / 1.15, high * 1.15),
            };
        }
        // A running mean of equal values differs from them by its rounding.
        let margin =
            if high - low > 1e-6 * high.abs() { (high - low) * 0.06 } else { (high.abs() * 0.1).max(1e-9) };
        // What is no farther from 0 than from itself shows 0.
        let from = if low >= 0.0 && low < 0.4 * high { 0.0 } else { low - margin };
        let to = high + margin;
        Axis { from, to, logarithmic: false, ticks: ticks(from, to, 5.0) }
    }

    /// Where a value lies, from 0 to 1; what is beyond lies at the end.
    fn at(&self, value: f64) -> f64 {
        let scale = |v: f64| if self.logarithmic { v.max(f64::MIN_POSITIVE).ln() } else { v };
        let (from, to) = (scale(self.from), scale(self.to));
        ((scale(value) - from) / (to - from)).clamp(0.0, 1.0)
    }
}

/// Round numbers between two, about `count` of them.
fn ticks(from: f64, to: f64, count: f64) -> Vec<f64> {
    let rough = (to - from) / count;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|of| of * power).find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(10.0 * power);
    let (first, last) = ((from / step - 1e-9).ceil() as i64, (to / step + 1e-9).floor() as i64);
    (first..=last).map(|i| i as f64 * step).collect()
}

/// Powers of 10 between two numbers, with 2 and 5 times them where they are few.
fn powers(from: f64, to: f64) -> Vec<f64> {
    let all = |of: &[f64]| -> Vec<f64> {
        let exponents = from.log10().floor() as i32..=to.log10().ceil() as i32;
        let values = exponents.flat_map(|e| of.iter().map(move |of| of * 10_f64.powi(e)));
        values.filter(|value| (from..=to).contains(value)).collect()
    };
    let tens = all(&[1.0]);
    if tens.len() < 3 { all(&[1.0, 2.0, 5.0]) } else { tens }
}

fn color(index: usize) -> String {
    format!("c{}", index % COLORS)
}

fn px(value: f64) -> String {
    format!("{value:.1}")
}

fn left(at: f64) -> f64 {
    LEFT + at * (WIDTH - LEFT - RIGHT)
}

fn top(at: f64) -> f64 {
    TOP + (1.0 - at) * (HEIGHT - TOP - BOTTOM)
}

fn grid(x: &Axis, y: &Axis) -> Html {
    let mut parts = Vec::new();
    let line = |class, [x1, y1, x2, y2]: [f64; 4]| {
        let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(px);
        el("line", &[("class", class), ("x1", &x1), ("y1", &y1), ("x2", &x2), ("y2", &y2)], "")
    };
    let label = |text: String, [x, y]: [f64; 2], anchor| {
        el("text", &[("x", &px(x)), ("y", &px(y)), ("text-anchor", anchor)], text)
    };
    for &tick in &y.ticks {
        let at = top(y.at(tick));
        parts.push(line("grid", [LEFT, at, WIDTH - RIGHT, at]));
        parts.push(label(number(tick), [LEFT - 7.0, at + 4.0], "end"));
    }
    let floor = HEIGHT - BOTTOM;
    parts.push(line("axis", [LEFT, floor, WIDTH - RIGHT, floor]));
    for &tick in &x.ticks {
        let at = left(x.at(tick));
        parts.push(line("axis", [at, floor, at, floor + 4.0]));
        parts.push(label(format!("{tick}"), [at, floor + 17.0], "middle"));
    }
    if y.logarithmic {
        parts.push(label("logarithmic".to_string(), [WIDTH - RIGHT, TOP - 7.0], "end"));
    }
    Html::from(parts)
}

fn drawn(curve: &Curve, index: usize, x: &Axis, y: &Axis) -> Html {
    let place = |point: &Point, value: f64| [left(x.at(point.step as f64)), top(y.at(value))];
    let path = |of: fn(&Point) -> f64| {
        let mut path = String::new();
        for (i, point) in curve.points.iter().enumerate() {
            let [x, y] = place(point, of(point));
            write!(path, "{}{x:.1} {y:.1}", if i == 0 { "M" } else { "L" })
                .expect("a string takes what is written");
        }
        path
    };
    let is_smoothed = curve.points.iter().any(|point| point.smooth != point.raw);
    let mut parts = Vec::new();
    if is_smoothed {
        parts.push(el("path", &[("class", "raw"), ("d", &path(|point| point.raw))], ""));
    }
    parts.push(el("path", &[("class", "mean"), ("d", &path(|point| point.smooth))], ""));
    if curve.points.len() <= FEW {
        let dot = |point: &Point| {
            let [x, y] = place(point, point.smooth).map(px);
            el("circle", &[("cx", &x), ("cy", &y), ("r", "2.6")], "")
        };
        parts.extend(curve.points.iter().map(dot));
    }
    let values = |of: fn(&Point) -> String| curve.points.iter().map(of).collect::<Vec<_>>().join(" ");
    let mean = if is_smoothed { values(|point| number(point.smooth)) } else { String::new() };
    let attributes = [
        ("class", format!("curve {}", color(index))),
        ("data-name", curve.name.clone()),
        ("data-steps", values(|point| point.step.to_string())),
        ("data-values", values(|point| number(point.raw))),
        ("data-means", mean),
    ];
    let attributes: Vec<(&str, &str)> = attributes.iter().map(|(n, v)| (*n, v.as_str())).collect();
    el("g", &attributes, parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(values: &[f64]) -> Axis {
        let values: Vec<(u64, f64)> = (1..).zip(values.iter().copied()).collect();
        Axis::of_values(&[Curve::new("a", &values)])
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 100.0, 5.0), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(ticks(-0.3, 0.35, 5.0).len(), 3);
        assert_eq!(powers(0.9, 150.0), [1.0, 10.0, 100.0]);
        assert_eq!(powers(3.0, 30.0), [5.0, 10.0, 20.0]);
    }

    #[test]
    fn an_axis_fits_its_values() {
        let near = axis(&[10.0, 10.5, 11.0]);
        assert!(near.from > 9.0 && near.to < 12.0 && !near.logarithmic);
        assert_eq!(axis(&[0.1, 0.9]).from, 0.0);
        assert!(axis(&[1e-4, 1e-2, 1.0]).logarithmic);
        let constant = axis(&[2e-4, 2e-4]);
        assert!(constant.from < 2e-4 && constant.to > 2e-4 && !constant.ticks.is_empty());
        assert_eq!(near.at(1e9), 1.0, "what is beyond is drawn at the end");
        assert!(!axis(&[0.0]).at(0.0).is_nan());
    }

    #[test]
    fn a_lone_point_is_drawn() {
        let chart = Chart { title: "One".into(), curves: vec![Curve::new("a", &[(3, 0.5)])], shares: false };
        let svg = chart.html().into_string();
        assert!(svg.contains("<circle") && svg.contains("data-steps=\"3\"") && !svg.contains("NaN"), "{svg}");
    }
}
