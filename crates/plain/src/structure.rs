//! A look at an ONNX file's protobuf framing before any parser allocates by its length fields.

/// Levels of nested messages a sound ONNX file stays below; a deeper one could exhaust the stack.
const MAX_DEPTH: u32 = 24;

/// The messages of onnx.proto that hold other messages, as far as rten's parser follows them.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    ValueInfo,
    Type,
    Sequence,
    TensorType,
    Shape,
    Tensor,
    /// Holds scalars, strings and bytes only.
    Leaf,
}

impl Message {
    /// The message in field `number`, or `None` if the field holds bytes or numbers.
    fn child(self, number: u64) -> Option<Message> {
        Some(match (self, number) {
            (Message::Model, 7) => Message::Graph,
            (Message::Model, 8 | 14) => Message::Leaf,
            (Message::Graph, 1) => Message::Node,
            (Message::Graph, 5) => Message::Tensor,
            (Message::Graph, 11..=13) => Message::ValueInfo,
            (Message::Node, 5) => Message::Attribute,
            (Message::Attribute, 5) => Message::Tensor,
            (Message::Attribute, 6) => Message::Graph,
            (Message::Tensor, 13) => Message::Leaf,
            (Message::ValueInfo, 2) => Message::Type,
            (Message::Type, 1) => Message::TensorType,
            (Message::Type, 4) => Message::Sequence,
            (Message::Sequence, 1) => Message::Type,
            (Message::TensorType, 2) => Message::Shape,
            (Message::Shape, 1) => Message::Leaf,
            _ => return None,
        })
    }
}

/// Checks that every length in an ONNX file's protobuf lies inside the message around it and that
/// messages nest less than 24 deep, so that parsing it takes memory in proportion to its size.
///
/// # Errors
/// A text that says what is wrong and at which byte.
pub fn check_structure(onnx: &[u8]) -> Result<(), String> {
    if onnx.is_empty() {
        return Err("it is empty".into());
    }
    let mut has_graph = false;
    walk(onnx, 0, Message::Model, 0, &mut has_graph)?;
    if has_graph { Ok(()) } else { Err("it holds no network graph".into()) }
}

fn walk(body: &[u8], base: usize, message: Message, depth: u32, has_graph: &mut bool) -> Result<(), String> {
    let mut at = 0;
    while at < body.len() {
        let start = at;
        let broken = || format!("damaged or cut off near byte {}", base + start);
        let key = varint(body, &mut at).ok_or_else(broken)?;
        let (number, wire) = (key >> 3, key & 7);
        let length = match wire {
            0 => {
                varint(body, &mut at).ok_or_else(broken)?;
                0
            }
            1 => 8,
            2 => varint(body, &mut at).and_then(|length| usize::try_from(length).ok()).ok_or_else(broken)?,
            5 => 4,
            _ => return Err(broken()),
        };
        let end = at.checked_add(length).filter(|&end| end <= body.len()).ok_or_else(broken)?;
        if wire == 2
            && let Some(child) = message.child(number)
        {
            if depth >= MAX_DEPTH {
                return Err(format!("messages nest too deep at byte {}", base + start));
            }
            *has_graph |= matches!(child, Message::Graph);
            let inner = body.get(at..end).ok_or_else(broken)?;
            walk(inner, base + at, child, depth + 1, has_graph)?;
        }
        at = end;
    }
    Ok(())
}

fn varint(body: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *body.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
