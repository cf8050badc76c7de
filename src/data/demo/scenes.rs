//! What stands behind a bird.

use rand::{Rng, RngExt};
use tiny_skia::{PathBuilder, Pixmap, Point, Rect, Transform};

use super::drawing::{Curve, Move, SIDE, Tint, fill, line, oval, shape, shape_open};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    Sky,
    Leaves,
    Branch,
    Water,
}

impl Scene {
    pub const ALL: [Scene; 4] = [Scene::Sky, Scene::Leaves, Scene::Branch, Scene::Water];
}

/// Paints the scene of a bird that stands at `feet`.
pub fn paint_scene(canvas: &mut Pixmap, scene: Scene, feet: Point, rng: &mut impl Rng) {
    match scene {
        Scene::Sky => paint_sky(canvas, rng),
        Scene::Leaves => paint_leaves(canvas, feet, rng),
        Scene::Branch => paint_branch(canvas, feet, rng),
        Scene::Water => paint_water(canvas, feet, rng),
    }
}

fn backdrop(canvas: &mut Pixmap, from: f32, top: Tint, bottom: Tint) {
    let side = SIDE as f32;
    let frame = Rect::from_ltrb(0.0, from.clamp(0.0, side - 1.0), side, side).expect("a part of the canvas");
    fill(canvas, &PathBuilder::from_rect(frame), top, bottom, None);
}

fn paint_sky(canvas: &mut Pixmap, rng: &mut impl Rng) {
    backdrop(canvas, 0.0, Tint::rgb(132, 188, 232), Tint::rgb(214, 234, 246));
    for _ in 0..rng.random_range(2..4) {
        let (x, y) = (anywhere(rng), anywhere(rng));
        let size = rng.random_range(8.0..14.0);
        for (dx, dy, r) in [(-1.1, 0.2, 0.7), (0.0, -0.1, 1.0), (1.1, 0.25, 0.75), (0.3, 0.35, 1.1)] {
            let puff = oval(x + dx * size, y + dy * size, r * size, r * size * 0.62);
            let white = Tint::rgb(255, 255, 255);
            fill(canvas, &puff, white.opacity(0.75), white.opacity(0.45), None);
        }
    }
}

fn paint_leaves(canvas: &mut Pixmap, feet: Point, rng: &mut impl Rng) {
    backdrop(canvas, 0.0, Tint::rgb(206, 222, 160), Tint::rgb(164, 192, 116));
    for _ in 0..18 {
        let tint = Tint::rgb(124, 168, 84).towards(Tint::rgb(196, 214, 130), rng.random_range(0.0..1.0));
        let (x, y) = (anywhere(rng), anywhere(rng));
        leaf(canvas, x, y, rng.random_range(8.0..15.0), rng.random_range(0.0..360.0), tint.opacity(0.4));
    }
    let stem = Tint::rgb(110, 134, 66);
    bough(canvas, feet.y + 1.5, 2.6, stem, rng);
}

fn paint_branch(canvas: &mut Pixmap, feet: Point, rng: &mut impl Rng) {
    backdrop(canvas, 0.0, Tint::rgb(238, 226, 204), Tint::rgb(216, 198, 170));
    let wood = Tint::rgb(112, 82, 60);
    bough(canvas, feet.y + 3.5, 7.0, wood, rng);
    for _ in 0..4 {
        let x = anywhere(rng);
        let tint = Tint::rgb(132, 156, 92);
        leaf(canvas, x, feet.y + rng.random_range(4.0..9.0), 7.0, rng.random_range(20.0..160.0), tint);
    }
}

fn paint_water(canvas: &mut Pixmap, feet: Point, rng: &mut impl Rng) {
    backdrop(canvas, 0.0, Tint::rgb(226, 238, 236), Tint::rgb(196, 222, 224));
    let shore = feet.y - rng.random_range(14.0..22.0);
    backdrop(canvas, shore, Tint::rgb(142, 196, 204), Tint::rgb(70, 142, 164));
    for _ in 0..8 {
        let (x, y) = (anywhere(rng), rng.random_range(shore + 3.0..SIDE as f32));
        let half = rng.random_range(4.0..11.0);
        let wave = shape_open(&[
            Move(x - half, y),
            Curve(x - half * 0.4, y - 2.0, x + half * 0.4, y - 2.0, x + half, y),
        ]);
        line(canvas, &wave, Tint::rgb(226, 244, 246).opacity(0.7), 1.2);
    }
}

/// Rings about the legs of a bird that stands in the water.
pub fn paint_ripples(canvas: &mut Pixmap, feet: Point) {
    for (size, opacity) in [(7.0, 0.9), (12.0, 0.6), (17.0, 0.35)] {
        let ring = oval(feet.x, feet.y, size, size * 0.24);
        line(canvas, &ring, Tint::rgb(236, 248, 250).opacity(opacity), 1.1);
    }
}

/// A bough across the image whose top is at `y` in the middle.
fn bough(canvas: &mut Pixmap, y: f32, thick: f32, tint: Tint, rng: &mut impl Rng) {
    let (left, right) = (rng.random_range(-7.0..7.0), rng.random_range(-7.0..7.0));
    let side = SIDE as f32;
    let bough = shape_open(&[
        Move(-4.0, y + left),
        Curve(side * 0.3, y, side * 0.36, y, side * 0.5, y),
        Curve(side * 0.64, y, side * 0.7, y, side + 4.0, y + right),
    ]);
    line(canvas, &bough, tint.darker(0.25), thick);
    let light = bough.clone().transform(Transform::from_translate(0.0, -thick * 0.14));
    line(canvas, &light.expect("a shift keeps a path finite"), tint.lighter(0.1), thick * 0.6);
}

fn leaf(canvas: &mut Pixmap, x: f32, y: f32, length: f32, degrees: f32, tint: Tint) {
    let half = length / 2.0;
    let blade = shape(&[
        Move(-half, 0.0),
        Curve(-half * 0.3, -half * 0.7, half * 0.4, -half * 0.5, half, 0.0),
        Curve(half * 0.4, half * 0.5, -half * 0.3, half * 0.7, -half, 0.0),
    ]);
    let place = Transform::from_rotate(degrees).post_translate(x, y);
    let blade = blade.transform(place).expect("placing keeps a path finite");
    fill(canvas, &blade, tint.lighter(0.1), tint.darker(0.08), None);
}

fn anywhere(rng: &mut impl Rng) -> f32 {
    rng.random_range(0.0..SIDE as f32)
}
