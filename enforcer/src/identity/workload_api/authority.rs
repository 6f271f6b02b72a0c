//! Clients of a Unix socket that name it in `:authority`.
//!
//! gRPC in C, Python, Java and Swift puts the socket's path there, as it is
//! (`/run/enforcer/workload.sock`) or with percent signs (`run%2Fenforcer%2Fworkload.sock`). The
//! HTTP/2 implementation here takes neither for a host's name, and ends the stream with
//! `PROTOCOL_ERROR` before anybody is asked. Nobody looks at the name, so its slashes and percent
//! signs become hyphens on the way in: one character for another whose code has as many bits, also
//! in HPACK's Huffman code, so that all lengths and the client's own table stay right.
//!
//! What is not understood is handed on as it is.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::{
    bytes::{Buf as _, BytesMut},
    io::poll_read_buf,
};

/// The client's first bytes (RFC 9113, 3.4).
const PREFACE: usize = 24;
/// A frame's header (RFC 9113, 4.1).
const FRAME_HEADER: usize = 9;
/// The type of frames with a request's head.
const HEADERS: u8 = 1;
/// Flags of these.
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The largest frame that the server lets a client send.
const LARGEST: usize = 16 << 10;
/// `:authority` in HPACK's static table (RFC 7541, appendix A).
const AUTHORITY: usize = 1;
const NAME: &[u8] = b":authority";

/// A connection whose requests name a host.
#[derive(Debug)]
pub(super) struct NamedHost<S> {
    inner: S,
    /// Read, and not handed on.
    buffer: BytesMut,
    /// So many bytes of the buffer are ready to be handed on.
    ready: usize,
    /// So many bytes are handed on as they come.
    passing: usize,
}

impl<S> NamedHost<S> {
    /// Of a connection of which nothing was read.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            buffer: BytesMut::new(),
            ready: 0,
            passing: PREFACE,
        }
    }

    /// Whether something in the buffer can be handed on.
    fn release(&mut self) -> bool {
        while self.ready == 0 {
            if self.passing > 0 {
                self.ready = self.passing.min(self.buffer.len());
                self.passing -= self.ready;
                break;
            }
            let Some([a, b, c, kind]) = self.buffer.first_chunk() else {
                break;
            };
            let whole = FRAME_HEADER + u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if *kind != HEADERS || whole > FRAME_HEADER + LARGEST {
                self.passing = whole;
            } else if self.buffer.len() < whole {
                break;
            } else {
                name_host(&mut self.buffer[..whole]);
                self.ready = whole;
            }
        }
        self.ready > 0
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for NamedHost<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while !this.release() {
            let inner = Pin::new(&mut this.inner);
            if ready!(poll_read_buf(inner, context, &mut this.buffer))? == 0 {
                // Cut short: that is for whoever reads it to say.
                this.ready = this.buffer.len();
                break;
            }
        }
        let length = this.ready.min(out.remaining());
        out.put_slice(&this.buffer[..length]);
        this.buffer.advance(length);
        this.ready -= length;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for NamedHost<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// Makes the authority in a whole HEADERS frame a host's name, if it is none.
fn name_host(frame: &mut [u8]) {
    let flags = frame[4];
    let priority = if flags & PRIORITY != 0 { 5 } else { 0 };
    let mut fields = Fields {
        at: FRAME_HEADER + usize::from(flags & PADDED != 0) + priority,
        bytes: frame,
    };
    // Nothing: the request has none, or it is in a frame that follows.
    let _ = fields.name_host();
}

/// Fields of a head as HPACK has them (RFC 7541, 6).
struct Fields<'f> {
    bytes: &'f mut [u8],
    at: usize,
}

impl Fields<'_> {
    fn name_host(&mut self) -> Option<()> {
        loop {
            let first = *self.bytes.get(self.at)?;
            if first & 0x80 != 0 {
                // A field that is known already.
                self.integer(7)?;
                continue;
            }
            if first & 0xe0 == 0x20 {
                // Another size of the table.
                self.integer(5)?;
                continue;
            }
            let name = self.integer(if first & 0x40 != 0 { 6 } else { 4 })?;
            // gRPC in C spells it out.
            let spelled = name == 0 && matches!(self.text()?, (false, text) if text == NAME);
            let (coded, text) = self.text()?;
            if name == AUTHORITY || spelled {
                if coded {
                    hyphenate_code(text);
                } else {
                    hyphenate(text);
                }
                return Some(());
            }
        }
    }

    /// An integer that begins with so many bits of a byte (RFC 7541, 5.1).
    fn integer(&mut self, bits: u32) -> Option<usize> {
        let most = (1 << bits) - 1;
        let mut value = usize::from(*self.bytes.get(self.at)?) & most;
        self.at += 1;
        if value < most {
            return Some(value);
        }
        // Larger ones than a frame has bytes are nothing.
        for shift in [0, 7, 14] {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A text, and whether it is in Huffman code (RFC 7541, 5.2).
    fn text(&mut self) -> Option<(bool, &mut [u8])> {
        let coded = self.bytes.get(self.at)? & 0x80 != 0;
        let length = self.integer(7)?;
        let text = self.bytes.get_mut(self.at..)?.get_mut(..length)?;
        self.at += length;
        Some((coded, text))
    }
}

fn hyphenate(text: &mut [u8]) {
    for byte in text {
        if matches!(byte, b'/' | b'%') {
            *byte = b'-';
        }
    }
}

/// The same in HPACK's Huffman code (RFC 7541, appendix B), where all three have six bits. Codes
/// of up to eight bits are told by their first ones; what no path has ends it.
fn hyphenate_code(code: &mut [u8]) {
    const PERCENT: u8 = 0b01_0101;
    const HYPHEN: u8 = 0b01_0110;
    const SLASH: u8 = 0b01_1000;
    let mut at = 0;
    while let Some(first) = code.get(at / 8) {
        // Eight bits from there on; behind the end there are ones, as in its padding.
        let second = code.get(at / 8 + 1).copied().unwrap_or(0xff);
        let [next, _] = (u16::from_be_bytes([*first, second]) << (at % 8)).to_be_bytes();
        let bits = match next {
            0..0b0101_0000 => 5,
            0b0101_0000..0b1011_1000 => 6,
            0b1011_1000..0b1111_1000 => 7,
            0b1111_1000..0b1111_1110 => 8,
            _ => return,
        };
        let whole = at + bits <= code.len() * 8;
        if bits == 6 && whole && matches!(next >> 2, PERCENT | SLASH) {
            for bit in 0..6 {
                let (byte, mask) = ((at + bit) / 8, 0x80 >> ((at + bit) % 8));
                if HYPHEN & (0b10_0000 >> bit) != 0 {
                    code[byte] |= mask;
                } else {
                    code[byte] &= !mask;
                }
            }
        }
        at += bits;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio_util::io::StreamReader;

    use super::*;

    /// A HEADERS frame with a field that is known, an authority, and another field.
    fn request(flags: u8, name: &[u8], authority: &[u8], coded: bool) -> Vec<u8> {
        let mut block = vec![0x83];
        if flags & PADDED != 0 {
            block.insert(0, 3);
        }
        if flags & PRIORITY != 0 {
            block.splice(block.len() - 1..block.len() - 1, [0, 0, 0, 0, 7]);
        }
        block.extend(name);
        let length = u8::try_from(authority.len()).unwrap();
        block.push(length | if coded { 0x80 } else { 0 });
        block.extend(authority);
        block.extend(*b"\x40\x01a\x03/%/");
        if flags & PADDED != 0 {
            block.extend([0, 0, 0]);
        }
        let length = u32::try_from(block.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([HEADERS, flags, 0, 0, 0, 1]);
        frame.extend(block);
        frame
    }

    /// What comes through, in pieces of one size.
    async fn through(bytes: &[u8], piece: usize) -> Vec<u8> {
        let pieces = bytes.chunks(piece).map(io::Result::Ok);
        let stream = futures::stream::iter(pieces);
        let mut read = Vec::new();
        let mut named = NamedHost::new(StreamReader::new(stream));
        named.read_to_end(&mut read).await.unwrap();
        read
    }

    /// In Huffman code, of letters that paths have.
    fn code(text: &str) -> Vec<u8> {
        // RFC 7541, appendix B.
        let codes = [
            ('%', "010101"),
            ('-', "010110"),
            ('.', "010111"),
            ('/', "011000"),
            ('2', "00010"),
            ('F', "1100010"),
            ('X', "11111100"),
            ('a', "00011"),
            ('k', "1110101"),
            ('u', "101101"),
        ];
        let of = |letter| codes.iter().find(|(known, _)| *known == letter).unwrap().1;
        let mut bits: String = text.chars().map(of).collect();
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        let bytes = bits.as_bytes().chunks(8);
        let byte = |bits| u8::from_str_radix(str::from_utf8(bits).unwrap(), 2).unwrap();
        bytes.map(byte).collect()
    }

    #[tokio::test]
    async fn a_path_becomes_a_name_of_the_same_length() {
        // In the static table or spelled out, to be kept in the table or not.
        let names: [&[u8]; 4] = [
            b"\x41",
            b"\x01",
            b"\x40\x0a:authority",
            b"\x10\x0a:authority",
        ];
        let flags = [4, 4 | PADDED, 4 | PRIORITY, 4 | PADDED | PRIORITY];
        for (given, expected) in [
            ("/aku/X.a", "-aku-X.a"),
            ("aku%2FX%2Fk.a", "aku-2FX-2Fk.a"),
            ("%2F%2F//%", "-2F-2F---"),
            ("aku", "aku"),
        ] {
            for (flags, name) in flags.into_iter().flat_map(|f| names.map(|n| (f, n))) {
                for coded in [false, true] {
                    let bytes = |text: &str| {
                        if coded {
                            code(text)
                        } else {
                            text.as_bytes().to_vec()
                        }
                    };
                    let stream = |text| {
                        let mut stream = vec![b'/'; PREFACE];
                        // A frame of another type that looks the same behind its header.
                        let mut other = request(flags, name, &bytes(given), coded);
                        other[3] = HEADERS + 1;
                        stream.extend(other);
                        let request = request(flags, name, &bytes(text), coded);
                        stream.extend(request.repeat(2));
                        stream
                    };
                    for piece in [1, 7, 1_000] {
                        let came = through(&stream(given), piece).await;
                        assert_eq!(came, stream(expected), "{given} {flags} {name:?} {coded}");
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn what_is_not_understood_comes_through_as_it_is() {
        let head = |length: u32, rest: &[u8]| {
            let mut bytes = vec![b'%'; PREFACE];
            bytes.extend(&length.to_be_bytes()[1..]);
            bytes.extend([HEADERS, 4, 0, 0, 0, 1]);
            bytes.extend(rest);
            bytes
        };
        for bytes in [
            // Cut short, empty, with a text that is longer than the frame, with endless integers.
            head(9, b"\x41\x04/"),
            head(0, b""),
            head(3, b"\x41\x7f/"),
            head(6, b"\x41\x7f\xff\xff\xff\x0f"),
            head(6, b"\xff\xff\xff\xff\xff\x0f"),
            // Larger than the server allows.
            head(1 << 20, b"\x41\x01/"),
            // A code that no path has.
            head(4, b"\x41\x82\xff\x60"),
            vec![b'/'; PREFACE - 1],
        ] {
            assert_eq!(through(&bytes, 5).await, bytes);
        }
        // Padding and priority that are not there.
        let mut bytes = head(1, b"/");
        bytes[PREFACE + 4] = PADDED | PRIORITY;
        assert_eq!(through(&bytes, 100).await, bytes);
    }
}
