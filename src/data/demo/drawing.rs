//! Tints, paths and strokes on a canvas.

use tiny_skia::{
    Color, FillRule, GradientStop, LineCap, LinearGradient, Mask, Paint, Path, PathBuilder, Pixmap, Point,
    Rect, Shader, SpreadMode, Stroke, Transform,
};

use crate::data::Picture;

/// Side of a drawn image in pixels.
pub const SIDE: u32 = 112;

pub fn picture_of(canvas: &Pixmap) -> Picture {
    let side = SIDE as usize;
    let pixels = canvas.pixels().iter().flat_map(|p| [p.red(), p.green(), p.blue()]).collect();
    Picture { width: side, height: side, pixels }
}

/// Red, green, blue and opacity from 0 to 1.
#[derive(Debug, Clone, Copy)]
pub struct Tint(pub [f32; 4]);

impl Tint {
    pub fn rgb(r: u8, g: u8, b: u8) -> Tint {
        Tint([r, g, b, 255].map(|value| f32::from(value) / 255.0))
    }

    /// A share `t` of the way to `other`.
    pub fn towards(self, other: Tint, t: f32) -> Tint {
        Tint(std::array::from_fn(|i| self.0[i] + (other.0[i] - self.0[i]) * t))
    }

    pub fn lighter(self, t: f32) -> Tint {
        self.towards(Tint::rgb(255, 255, 255), t)
    }

    pub fn darker(self, t: f32) -> Tint {
        self.towards(Tint::rgb(14, 10, 24), t)
    }

    pub fn opacity(self, a: f32) -> Tint {
        let [r, g, b, _] = self.0;
        Tint([r, g, b, a])
    }

    pub fn color(self) -> Color {
        let [r, g, b, a] = self.0.map(|value| value.clamp(0.0, 1.0));
        Color::from_rgba(r, g, b, a).expect("every part was clamped")
    }
}

/// A pen's movement, in a bird's own space.
pub enum Pen {
    Move(f32, f32),
    Line(f32, f32),
    Curve(f32, f32, f32, f32, f32, f32),
}
pub use Pen::{Curve, Line, Move};

pub fn shape(strokes: &[Pen]) -> Path {
    let mut path = trace(strokes);
    path.close();
    path.finish().expect("a shape has an outline")
}

pub fn shape_open(strokes: &[Pen]) -> Path {
    trace(strokes).finish().expect("a line has a length")
}

fn trace(strokes: &[Pen]) -> PathBuilder {
    let mut path = PathBuilder::new();
    for stroke in strokes {
        match *stroke {
            Move(x, y) => path.move_to(x, y),
            Line(x, y) => path.line_to(x, y),
            Curve(ax, ay, bx, by, x, y) => path.cubic_to(ax, ay, bx, by, x, y),
        }
    }
    path
}

pub fn oval(x: f32, y: f32, rx: f32, ry: f32) -> Path {
    let frame = Rect::from_xywh(x - rx, y - ry, rx * 2.0, ry * 2.0).expect("an oval has positive radii");
    PathBuilder::from_oval(frame).expect("an oval has an outline")
}

pub fn turned(path: Path, degrees: f32) -> Path {
    path.transform(Transform::from_rotate(degrees)).expect("a turn keeps a path finite")
}

pub fn fill(canvas: &mut Pixmap, path: &Path, top: Tint, bottom: Tint, mask: Option<&Mask>) {
    let bounds = path.bounds();
    let paint = Paint { shader: downwards(bounds.top(), bounds.bottom(), top, bottom), ..Paint::default() };
    canvas.fill_path(path, &paint, FillRule::Winding, Transform::identity(), mask);
}

pub fn line(canvas: &mut Pixmap, path: &Path, tint: Tint, width: f32) {
    let paint = Paint { shader: Shader::SolidColor(tint.color()), ..Paint::default() };
    let stroke = Stroke { width, line_cap: LineCap::Round, ..Stroke::default() };
    canvas.stroke_path(path, &paint, &stroke, Transform::identity(), None);
}

fn downwards(from: f32, to: f32, top: Tint, bottom: Tint) -> Shader<'static> {
    let stops = vec![GradientStop::new(0.0, top.color()), GradientStop::new(1.0, bottom.color())];
    let (from, to) = (Point::from_xy(0.0, from), Point::from_xy(0.0, to));
    LinearGradient::new(from, to, stops, SpreadMode::Pad, Transform::identity())
        .expect("a gradient between finite points")
}
