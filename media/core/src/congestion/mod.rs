//! How much a path carries: transport-wide feedback in both directions, and a first estimate from it.
//!
//! Not here: pacing, and the split of an estimate between tracks.

pub mod estimate;
pub mod twcc;
