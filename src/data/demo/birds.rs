//! The demo's birds: a few vector shapes with soft shading, in front of one of four scenes.
//!
//! A bird is built facing right in its own coordinates (the body is about one unit long, y points down), then tilted,
//! scaled and moved to pixels.

use rand::{Rng, RngExt};
use tiny_skia::{FillRule, Mask, Path, PathBuilder, Pixmap, Point, Rect, Transform};

use super::drawing::{
    Curve, Line, Move, SIDE, Tint, fill, line, oval, picture_of, shape, shape_open, turned,
};
use super::scenes::{Scene, paint_ripples, paint_scene};
use crate::data::Picture;

/// The colors that captions name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColorName {
    Red,
    Blue,
    Yellow,
    Green,
    Brown,
    Black,
    White,
    Gray,
    Orange,
}

impl ColorName {
    pub const ALL: [ColorName; 9] = [
        ColorName::Red,
        ColorName::Blue,
        ColorName::Yellow,
        ColorName::Green,
        ColorName::Brown,
        ColorName::Black,
        ColorName::White,
        ColorName::Gray,
        ColorName::Orange,
    ];

    pub fn word(self) -> &'static str {
        match self {
            ColorName::Red => "red",
            ColorName::Blue => "blue",
            ColorName::Yellow => "yellow",
            ColorName::Green => "green",
            ColorName::Brown => "brown",
            ColorName::Black => "black",
            ColorName::White => "white",
            ColorName::Gray => "grey",
            ColorName::Orange => "orange",
        }
    }

    fn tint(self) -> Tint {
        let [r, g, b] = match self {
            ColorName::Red => [206, 38, 44],
            ColorName::Blue => [44, 92, 208],
            ColorName::Yellow => [250, 212, 48],
            ColorName::Green => [52, 148, 66],
            ColorName::Brown => [124, 78, 42],
            ColorName::Black => [40, 38, 44],
            ColorName::White => [246, 245, 240],
            ColorName::Gray => [146, 150, 156],
            ColorName::Orange => [244, 128, 28],
        };
        Tint([r, g, b, 255].map(|value: u8| f32::from(value) / 255.0))
    }
}

/// Everything about a bird that a caption may tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bird {
    pub body: ColorName,
    pub wings: ColorName,
    pub belly: ColorName,
    pub crown: ColorName,
    pub large: bool,
    pub long_bill: bool,
    pub scene: Scene,
}

/// Draws `bird` in a random pose; returns the image and the bird's bounding box `[x, y, width, height]`.
pub fn draw(bird: &Bird, rng: &mut impl Rng) -> (Picture, [f32; 4]) {
    let drawing = BirdDrawing::of(bird, rng);
    let place = drawing.place(rng);
    let mut canvas = Pixmap::new(SIDE, SIDE).expect("the side is not zero");
    paint_scene(&mut canvas, bird.scene, drawing.feet(place), rng);
    drawing.paint(&mut canvas, place);
    if bird.scene == Scene::Water {
        paint_ripples(&mut canvas, drawing.feet(place));
    }
    (picture_of(&canvas), drawing.bounds(place))
}

/// One shape of a drawing, painted in order.
struct Layer {
    path: Path,
    ink: Ink,
    /// Painted only where the body is.
    within_body: bool,
}

enum Ink {
    /// Filled from the first tint at the top to the second at the bottom.
    Fill(Tint, Tint),
    /// Drawn as a line of this width.
    Line(Tint, f32),
}

/// A bird's shapes in its own space.
struct BirdDrawing {
    layers: Vec<Layer>,
    body: Path,
    feet: Point,
}

/// Measures that differ between chubby small birds and slender large ones.
struct Build {
    body: (f32, f32),
    slant: f32,
    head: (f32, f32),
    head_radius: f32,
    neck: f32,
    legs: f32,
    tail: f32,
    bill: f32,
}

const SMALL: Build = Build {
    body: (0.62, 0.53),
    slant: -16.0,
    head: (0.40, -0.46),
    head_radius: 0.40,
    neck: 0.36,
    legs: 0.22,
    tail: 0.34,
    bill: 1.0,
};

const LARGE: Build = Build {
    body: (0.72, 0.43),
    slant: -24.0,
    head: (0.66, -0.86),
    head_radius: 0.285,
    neck: 0.22,
    legs: 0.52,
    tail: 0.46,
    bill: 0.95,
};

impl BirdDrawing {
    fn of(bird: &Bird, rng: &mut impl Rng) -> BirdDrawing {
        let build = if bird.large { &LARGE } else { &SMALL };
        let body = silhouette(build);
        let mut drawing =
            BirdDrawing { layers: Vec::new(), body, feet: Point::from_xy(0.08, build.body.1 + build.legs) };
        let flying = bird.scene == Scene::Sky;
        let wings = bird.wings.tint();
        if flying {
            let angle = rng.random_range(90.0..96.0);
            drawing.wing(build, wings.darker(0.18), angle);
        } else {
            drawing.legs(build);
        }
        drawing.tail(build, wings, rng.random_range(-4.0..4.0));
        drawing.bill(build, bird.long_bill, rng);
        drawing.torso(bird, build);
        drawing.crown(build, bird.crown.tint());
        drawing.eye(build);
        drawing.wing(
            build,
            wings,
            if flying { rng.random_range(62.0..68.0) } else { rng.random_range(-3.0..3.0) },
        );
        drawing
    }

    fn fill(&mut self, path: Path, tint: Tint, within_body: bool) {
        let ink = Ink::Fill(tint.lighter(0.12), tint.darker(0.16));
        self.layers.push(Layer { path, ink, within_body });
    }

    fn line(&mut self, path: Path, tint: Tint, width: f32) {
        self.layers.push(Layer { path, ink: Ink::Line(tint, width), within_body: false });
    }

    fn outlined(&mut self, path: Path, tint: Tint) {
        self.line(path.clone(), tint.darker(0.42), 0.05);
        self.fill(path, tint, false);
    }

    fn torso(&mut self, bird: &Bird, build: &Build) {
        self.outlined(self.body.clone(), bird.body.tint());
        let (rx, ry) = build.body;
        let belly = turned(oval(rx * 0.4, ry * 0.56, rx * 0.78, ry * 0.7), build.slant * 1.2);
        self.fill(belly, bird.belly.tint(), true);
    }

    fn tail(&mut self, build: &Build, tint: Tint, lift: f32) {
        let root = -build.body.0 * 0.72;
        let end = -build.body.0 - build.tail;
        let tail = shape(&[
            Move(root, -0.06),
            Curve(root - 0.2, 0.02, end + 0.1, 0.06, end, 0.1),
            Line(end + 0.07, 0.2),
            Line(end + 0.03, 0.3),
            Curve(end + 0.2, 0.3, root - 0.1, 0.26, root + 0.1, 0.24),
        ]);
        self.outlined(turned(tail, build.slant * 0.5 + lift), tint.darker(0.1));
    }

    /// A wing hinged at the shoulder: folded back at 0°, raised at 90°.
    fn wing(&mut self, build: &Build, tint: Tint, raised: f32) {
        let (rx, ry) = build.body;
        let (sx, sy) = (rx * 0.36, -ry * 0.34);
        let tip = (-rx * 1.34, ry * 0.36);
        let hinge = Transform::from_rotate_at(raised, sx - rx * 0.2, sy + ry * 0.3);
        let place = |path: Path| path.transform(hinge).expect("a turn keeps a path finite");
        let wing = shape(&[
            Move(sx, sy),
            Curve(sx - rx * 0.4, sy - ry * 0.36, -rx * 0.8, -ry * 0.3, tip.0, tip.1),
            Curve(-rx * 0.9, ry * 0.66, -rx * 0.1, ry * 0.98, sx + rx * 0.08, ry * 0.22),
            Curve(sx + rx * 0.14, 0.0, sx + rx * 0.1, sy + ry * 0.1, sx, sy),
        ]);
        self.outlined(place(wing), tint);
        for row in [0.34, 0.58] {
            let feather = shape(&[
                Move(tip.0 * 0.8, tip.1 + ry * 0.1 * row),
                Curve(
                    -rx * 0.5,
                    ry * (0.1 + row * 0.6),
                    -rx * 0.2,
                    ry * (row + 0.1),
                    sx * 0.6,
                    ry * (row - 0.28),
                ),
            ]);
            self.line(place(feather), tint.darker(0.36).opacity(0.7), 0.035);
        }
    }

    fn crown(&mut self, build: &Build, tint: Tint) {
        let (x, y) = build.head;
        let radius = build.head_radius * 1.05;
        let at = |degrees: f32| {
            let (sin, cos) = degrees.to_radians().sin_cos();
            (x + radius * cos, y + radius * sin)
        };
        let mut path = PathBuilder::new();
        let start = at(168.0);
        path.move_to(start.0, start.1);
        for step in 1..=16 {
            let (px, py) = at(168.0 + 160.0 * step as f32 / 16.0);
            path.line_to(px, py);
        }
        path.quad_to(x + radius * 0.1, y - radius * 0.34, start.0, start.1);
        path.close();
        let path = path.finish().expect("a crown has an outline");
        self.outlined(path, tint);
    }

    fn eye(&mut self, build: &Build) {
        let (x, y) = (build.head.0 + build.head_radius * 0.42, build.head.1 + build.head_radius * 0.04);
        let radius = 0.055 + build.head_radius * 0.13;
        for (tint, size, up) in [
            (Tint::rgb(250, 246, 232), 1.0, 0.0),
            (Tint::rgb(22, 18, 24), 0.76, 0.0),
            (Tint::rgb(255, 255, 255), 0.26, 0.3),
        ] {
            let dot = oval(x + up * radius, y - up * radius, radius * size, radius * size);
            self.layers.push(Layer { path: dot, ink: Ink::Fill(tint, tint), within_body: false });
        }
    }

    /// A short bill is a cone, a long one a slender point that may be hooked.
    fn bill(&mut self, build: &Build, long: bool, rng: &mut impl Rng) {
        let (length, thick) = if long { (0.62, 0.10) } else { (0.21, 0.13) };
        let (length, thick) = (length * build.bill * rng.random_range(0.94..1.1), thick * build.bill);
        let hook = if long && rng.random_bool(0.4) { 0.12 } else { 0.02 };
        let (x, y) = (build.head.0 + build.head_radius * 0.86, build.head.1 + build.head_radius * 0.16);
        let bill = shape(&[
            Move(x, y - thick),
            Curve(x + length * 0.5, y - thick, x + length, y - thick * 0.3, x + length, y + hook),
            Curve(x + length * 0.8, y + thick * 0.5, x + length * 0.4, y + thick, x, y + thick),
        ]);
        let horn = Tint::rgb(206, 152, 82);
        let slate = Tint::rgb(74, 70, 76);
        self.outlined(bill, slate.towards(horn, if rng.random_bool(0.5) { 0.9 } else { 0.0 }));
    }

    fn legs(&mut self, build: &Build) {
        let ground = self.feet.y;
        let skin = Tint::rgb(122, 88, 58);
        for (hip, foot) in [(-0.02, -0.06), (0.2, 0.2)] {
            let leg = shape_open(&[
                Move(hip, build.body.1 * 0.6),
                Line(foot, ground - 0.02),
                Line(foot + 0.13, ground),
                Move(foot, ground - 0.02),
                Line(foot - 0.09, ground + 0.01),
            ]);
            self.line(leg, skin, 0.055);
        }
    }

    /// Tilts and scales the drawing so that it fills most of the image, near the middle. Poses vary little: what
    /// captions do not tell is what a small generator spends its time on.
    fn place(&self, rng: &mut impl Rng) -> Transform {
        let tilted = Transform::from_rotate(rng.random_range(-3.0..3.0));
        let [x, y, width, height] = self.bounds(tilted);
        let scale = rng.random_range(60.0..64.0) / width.max(height);
        let middle = SIDE as f32 / 2.0;
        let (dx, dy) = (rng.random_range(-2.0..2.0), rng.random_range(-2.0..2.0));
        tilted
            .post_translate(-x - width / 2.0, -y - height / 2.0)
            .post_scale(scale, scale)
            .post_translate(middle + dx, middle + dy)
    }

    /// `[x, y, width, height]` of all shapes once placed.
    fn bounds(&self, place: Transform) -> [f32; 4] {
        let boxes = self.layers.iter().filter(|layer| !layer.within_body).map(|layer| {
            let path = layer.path.clone().transform(place).expect("placing keeps a path finite");
            path.compute_tight_bounds().expect("a path that is drawn has bounds")
        });
        let all = boxes.reduce(|a, b| join(&a, &b)).expect("a drawing has shapes");
        [all.left(), all.top(), all.width(), all.height()]
    }

    /// Where the bird stands, in pixels.
    fn feet(&self, place: Transform) -> Point {
        let mut feet = self.feet;
        place.map_point(&mut feet);
        feet
    }

    fn paint(&self, canvas: &mut Pixmap, place: Transform) {
        let mut mask = Mask::new(SIDE, SIDE).expect("the side is not zero");
        mask.fill_path(&self.body, FillRule::Winding, true, place);
        for layer in &self.layers {
            let path = layer.path.clone().transform(place).expect("placing keeps a path finite");
            let mask = layer.within_body.then_some(&mask);
            match layer.ink {
                Ink::Fill(top, bottom) => fill(canvas, &path, top, bottom, mask),
                Ink::Line(tint, width) => {
                    let (across, along) = place.get_scale();
                    line(canvas, &path, tint, width * (across * along).sqrt());
                }
            }
        }
    }
}

/// Body, neck and head as one path, so that no seam shows between them.
fn silhouette(build: &Build) -> Path {
    let (hx, hy) = build.head;
    let mut path = PathBuilder::new();
    path.push_path(&turned(oval(0.0, 0.0, build.body.0, build.body.1), build.slant));
    path.push_path(&oval(hx, hy, build.head_radius, build.head_radius));
    // Clockwise as the ovals are: where paths of opposite sense overlap, a winding fill leaves a hole.
    let neck = shape(&[
        Move(hx + build.neck, hy),
        Curve(hx + build.neck * 0.9, hy + 0.3, build.body.0 * 0.98, -0.1, build.body.0 * 0.7, 0.1),
        Line(-build.body.0 * 0.5, -0.1),
        Curve(-0.1, -0.3, hx - build.neck, hy + 0.2, hx - build.neck, hy),
    ]);
    path.push_path(&neck);
    path.finish().expect("a silhouette has an outline")
}

fn join(a: &Rect, b: &Rect) -> Rect {
    Rect::from_ltrb(
        a.left().min(b.left()),
        a.top().min(b.top()),
        a.right().max(b.right()),
        a.bottom().max(b.bottom()),
    )
    .expect("the union of two boxes is a box")
}
