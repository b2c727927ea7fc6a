//! What a flow's packets look like: sizes, and how many come back to back.

/// The shape of a flow, repeated for ever: frames, each of packets that leave back to back, at a steady rate of frames.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Sizes in bytes of application data, by frame. No frame is empty.
    frames: Vec<Vec<u16>>,
    /// Frames a second of one flow in real life, if it is taken from there.
    frames_per_second: Option<f64>,
}

/// Traffic as calls make it; sizes include RTP and SRTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Speech or music in Opus: 50 packets a second, 140 to 180 bytes, 160 in the mean: 64 kbit/s.
    Opus,
    /// 720p video: 30 frames a second of five packets with 1,100 to 1,200 bytes, every third second a key frame of 50: 1.5
    /// Mbit/s.
    Video,
    /// A shared screen: five frames a second, mostly two small packets; every fourth second a new page of 80 packets with
    /// 1,180 bytes: 0.23 Mbit/s.
    Screen,
}

impl Mix {
    /// Its shape.
    pub fn shape(self) -> Shape {
        let (frames, frames_per_second) = match self {
            Self::Opus => ([148, 172, 160, 140, 180].map(|size| vec![size]).to_vec(), 50.0),
            Self::Video => {
                let frame = |index: u16| {
                    let count = if index == 0 { 50 } else { 5 };
                    vec![1100 + index * 37 % 101; count]
                };
                ((0..90).map(frame).collect(), 30.0)
            }
            Self::Screen => {
                let frame = |index: u16| if index == 0 { vec![1180; 80] } else { vec![400 + index * 20; 2] };
                ((0..20).map(frame).collect(), 5.0)
            }
        };
        Shape { frames, frames_per_second: Some(frames_per_second) }
    }
}

impl Shape {
    /// Packets of one size, `burst` of them back to back.
    ///
    /// # Panics
    /// If there are none.
    pub fn even(payload: u16, burst: usize) -> Self {
        assert!(burst > 0, "a frame of no packets");
        Self { frames: vec![vec![payload; burst]], frames_per_second: None }
    }

    /// Sizes in the `number`th frame of a flow. Flows begin at different places, so that their key frames do not meet.
    pub(super) fn frame(&self, flow: usize, number: u64) -> &[u16] {
        &self.frames[(number as usize).wrapping_add(flow * 7) % self.frames.len()]
    }

    /// Packets in a frame in the mean.
    pub fn packets_per_frame(&self) -> f64 {
        self.frames.iter().map(Vec::len).sum::<usize>() as f64 / self.frames.len() as f64
    }

    /// Packets a second of one flow in real life.
    pub fn packets_per_second(&self) -> Option<f64> {
        self.frames_per_second.map(|rate| rate * self.packets_per_frame())
    }

    /// Bytes of the largest packet.
    pub(super) fn payload_max(&self) -> usize {
        self.frames.iter().flatten().max().map_or(0, |size| usize::from(*size))
    }

    /// Bytes of the smallest packet.
    pub(super) fn payload_min(&self) -> usize {
        self.frames.iter().flatten().min().map_or(0, |size| usize::from(*size))
    }

    /// Bits a second of one flow in real life.
    pub fn bits_per_second(&self) -> Option<f64> {
        let bytes: f64 = self.frames.iter().flatten().map(|size| f64::from(*size)).sum();
        self.frames_per_second.map(|rate| bytes * 8.0 * rate / self.frames.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_are_what_their_description_says() {
        for (mix, packets, bits) in [(Mix::Opus, 50.0, 64e3), (Mix::Video, 165.0, 1.52e6), (Mix::Screen, 29.5, 0.234e6)]
        {
            let shape = mix.shape();
            let off = shape.packets_per_second().expect("it has a rate") / packets;
            assert!((0.999..1.001).contains(&off), "{mix:?}: {off}");
            let off = shape.bits_per_second().expect("it has a rate") / bits;
            assert!((0.85..1.15).contains(&off), "{mix:?}: {off}");
        }
        let sizes: Vec<u16> = (0..90).flat_map(|number| Mix::Video.shape().frame(3, number).to_vec()).collect();
        assert!(sizes.iter().all(|size| (1100..=1200).contains(size)));
        assert_eq!(Shape::even(160, 8).packets_per_frame(), 8.0);
    }
}
