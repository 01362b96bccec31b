//! HTTP/2 as bytes: frames and header blocks that no ordinary client would make.

/// What a client says first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
/// A type that has no meaning: to be ignored.
pub(crate) const UNKNOWN: u8 = 0xfa;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;

/// Length of a frame's own head.
pub(crate) const HEAD: usize = 9;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

pub(crate) fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let each = values.iter().map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
    frame(SETTINGS, 0, 0, &each.collect::<Vec<_>>().concat())
}

/// Length, type, flags and stream of the frame at the beginning, when its head is whole.
pub(crate) fn head(bytes: &[u8]) -> Option<(usize, u8, u8, u32)> {
    let head = bytes.get(..HEAD)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
    Some((length, head[3], head[4], stream))
}

/// A header block of a request: nothing compressed, nothing remembered.
pub(crate) fn request(method: &str, authority: &str, path: &str) -> Vec<u8> {
    let method = match method {
        "GET" => vec![0x82],
        _ => vec![0x83], // POST
    };
    // Indexed `:scheme: http`; `:authority` and `:path` by the numbers of their names.
    [method, vec![0x86], literal(0x01, authority), literal(0x04, path)].concat()
}

/// A literal header that is not remembered, with the number of its name, and a text.
fn literal(name: u8, value: &str) -> Vec<u8> {
    [vec![name], text(value)].concat()
}

/// A literal header with a new name; `remembered`: it goes into the table.
pub(crate) fn header(name: &str, value: &str, remembered: bool) -> Vec<u8> {
    [vec![if remembered { 0x40 } else { 0 }], text(name), text(value)].concat()
}

/// The header that went into the table last.
pub(crate) const LAST_REMEMBERED: u8 = 0x80 | 62;

fn text(text: &str) -> Vec<u8> {
    [number(text.len()), text.as_bytes().to_vec()].concat()
}

/// A number with a prefix of seven bits.
fn number(mut n: usize) -> Vec<u8> {
    if n < 0x7f {
        return vec![n as u8];
    }
    let mut out = vec![0x7f];
    n -= 0x7f;
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}
