//! What the edge agents of a fleet and the backend say to each other.
//!
//! A [`SignedResult`] is one encrypted inference with a statement of whose it is, signed by the device's [`DeviceKey`]. The
//! [`messages`] are the JSON bodies of the HTTP interface between edge and backend; `docs/operations.md` lists its routes.

mod device;
pub mod messages;
mod result;

pub use device::{DeviceKey, DeviceKeyError};
pub use result::{ResultError, ResultId, SampleId, SignedResult, Statement, decode_batch, encode_batch, is_batch};
