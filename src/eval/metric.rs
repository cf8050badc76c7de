/// A number that measures a trained network.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    pub name: String,
    pub value: f32,
    /// A line for the user: the value, what it was measured on, and the value of chance.
    pub message: String,
}
