//! How a batch of packets ended.

/// What a direction says of one batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Batch {
    /// There was nothing.
    Empty,
    /// It took all there was.
    Drained,
    /// There may be more.
    More,
}
