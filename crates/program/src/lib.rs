//! The steps the edge executes, and the bundle and results files that carry them.
