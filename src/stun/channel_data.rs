//! ChannelData: four bytes of header in front of application data (RFC 8656 §12.4).

/// Length of the ChannelData header in bytes.
pub const HEADER_LEN: usize = 4;

/// A channel number a client may bind: 0x4000–0x4FFF (TURN-8656-12-01), or up to 0x7FFE where RFC 5766 counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelNumber(u16);

impl ChannelNumber {
    /// `None` outside 0x4000–0x4FFF.
    pub const fn new(number: u16) -> Option<Self> {
        match number {
            0x4000..=0x4FFF => Some(Self(number)),
            _ => None,
        }
    }

    /// RFC 5766 let clients take 0x4000–0x7FFE (CLASSIC-5766-01). `None` outside of that.
    pub const fn of_rfc_5766(number: u16) -> Option<Self> {
        match number {
            0x4000..=0x7FFE => Some(Self(number)),
            _ => None,
        }
    }

    /// The number as it stands on the wire.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// A ChannelData message: the number as received (it may be a reserved one) and the application data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelData<'b> {
    /// As received; see [`ChannelNumber::new`].
    pub number: u16,
    /// Without header and padding.
    pub data: &'b [u8],
}

impl<'b> ChannelData<'b> {
    /// Reads a ChannelData message from a datagram or a stream frame; what follows the claimed length is padding and
    /// ignored (TURN-8656-12.6-02). `None` when fewer bytes are there than the header claims (TURN-8656-12.6-01).
    pub fn parse(bytes: &'b [u8]) -> Option<Self> {
        let (&[n0, n1, l0, l1], rest) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let data = rest.get(..usize::from(u16::from_be_bytes([l0, l1])))?;
        Some(Self { number: u16::from_be_bytes([n0, n1]), data })
    }
}

/// The header for `length` bytes of application data.
pub fn header(number: ChannelNumber, length: u16) -> [u8; HEADER_LEN] {
    let [n0, n1] = number.get().to_be_bytes();
    let [l0, l1] = length.to_be_bytes();
    [n0, n1, l0, l1]
}
