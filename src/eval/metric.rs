/// A number by which a trained network is judged.
pub struct Metric {
    pub name: String,
    pub value: f32,
    /// The line that tells a user: value, what it was measured on, what chance would give.
    pub message: String,
}
