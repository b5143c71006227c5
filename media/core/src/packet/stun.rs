//! As much of STUN (RFC 8489) as steering a first datagram needs: is it STUN, and whose ufrag does it name.
//!
//! Not here: attributes, integrity, transactions; those are the ICE agent's.

use super::{read_u16, read_u32};

const HEADER_LEN: usize = 20;
const MAGIC_COOKIE: u32 = 0x2112_a442;
const BINDING_REQUEST: u16 = 0x0001;
const USERNAME: u16 = 0x0006;

/// Whether a datagram is a STUN message: first two bits zero, the magic cookie, a length that adds up
/// (RFC 8489 section 5; first-byte rule of RFC 7983).
pub fn is_stun(datagram: &[u8]) -> bool {
    matches!(datagram.first(), Some(0..=3))
        && read_u32(datagram, 4) == Some(MAGIC_COOKIE)
        && read_u16(datagram, 2).is_some_and(|length| {
            length.is_multiple_of(4) && datagram.len() == HEADER_LEN + usize::from(length)
        })
}

/// The receiver's own ufrag: the part of a binding request's USERNAME before the colon (RFC 8445 section 7.2.2).
/// None for any other message, or when there is no such name.
pub fn local_ufrag(datagram: &[u8]) -> Option<&str> {
    if !is_stun(datagram) || read_u16(datagram, 0)? != BINDING_REQUEST {
        return None;
    }
    let mut at = HEADER_LEN;
    while let (Some(kind), Some(length)) = (read_u16(datagram, at), read_u16(datagram, at + 2)) {
        let length = usize::from(length);
        let value = datagram.get(at + 4..at + 4 + length)?;
        if kind == USERNAME {
            let colon = value.iter().position(|&byte| byte == b':')?;
            return std::str::from_utf8(&value[..colon])
                .ok()
                .filter(|ufrag| !ufrag.is_empty());
        }
        at += 4 + length.next_multiple_of(4);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (name, value) in attributes {
            body.extend_from_slice(&name.to_be_bytes());
            body.extend_from_slice(&(value.len() as u16).to_be_bytes());
            body.extend_from_slice(value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut message = kind.to_be_bytes().to_vec();
        message.extend_from_slice(&(body.len() as u16).to_be_bytes());
        message.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
        message.extend_from_slice(&[7; 12]);
        message.extend_from_slice(&body);
        message
    }

    #[test]
    fn username_before_the_colon_is_the_receivers() {
        let message = request(
            1,
            &[
                (0x0024, &[1, 2, 3, 4]),
                (0x8022, b"abc"),
                (6, b"mine:theirs"),
            ],
        );
        assert_eq!(local_ufrag(&message), Some("mine"));
    }

    #[test]
    fn other_messages_name_nobody() {
        let cases = [
            request(0x0101, &[(6, b"mine:theirs")]),
            request(1, &[(6, b"mine")]),
            request(1, &[(6, b":theirs")]),
            request(1, &[(6, b"\xff\xfe:theirs")]),
            request(1, &[]),
            request(1, &[(6, b"mine:theirs")])[..27].to_vec(),
            Vec::new(),
        ];
        for message in cases {
            assert_eq!(local_ufrag(&message), None, "{message:02x?}");
        }
        let mut lying = request(1, &[(6, b"mine:theirs")]);
        lying[22..24].copy_from_slice(&0xffff_u16.to_be_bytes());
        assert_eq!(local_ufrag(&lying), None);
    }

    #[test]
    fn stun_is_known_by_cookie_and_length() {
        let message = request(1, &[]);
        assert!(is_stun(&message));
        assert!(!is_stun(&message[..19]));
        for (at, byte) in [(0, 0x80), (4, 0), (3, 4)] {
            let mut other = message.clone();
            other[at] = byte;
            assert!(!is_stun(&other));
        }
    }
}
