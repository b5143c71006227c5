//! The dependency descriptor (RTP Payload Format for AV1, AOM, appendix A): which frame a packet is of, which decode
//! targets need it, and what it depends on. Any codec may carry it; it is in the clear where the payload is encrypted.
//!
//! Not here: which decode target a subscriber gets (`layers`).

use std::sync::Arc;

/// What the descriptor's templates say, told with a keyframe and in force until the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Structure {
    id_offset: u8,
    templates: Vec<Template>,
    targets: Vec<DecodeTarget>,
    /// By decode target; empty when there are no chains.
    protected_by: Vec<u8>,
    chains: u8,
}

/// A set of frames that can be decoded without the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DecodeTarget {
    /// Highest spatial layer in it.
    pub spatial: u8,
    /// Highest temporal layer in it.
    pub temporal: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Template {
    spatial: u8,
    temporal: u8,
    indications: Indications,
    references: References,
    chain_links: [u8; MAX_TARGETS],
}

/// What a frame is to each decode target, one bit for each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Indications {
    /// It belongs to the target.
    pub present: u32,
    /// Who can decode it can go on with the target from here.
    pub switch: u32,
}

/// Frames that a frame is decoded from, as differences of frame numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct References {
    count: u8,
    differences: [u16; Self::MAX],
}

/// A packet's frame as its descriptor tells it.
#[derive(Debug, Clone)]
pub struct FrameDescription {
    /// First packet of the frame.
    pub starts: bool,
    /// Last packet of the frame.
    pub ends: bool,
    /// The frame's number.
    pub number: u16,
    /// This packet brought the structure.
    pub has_structure: bool,
    /// All else; None: it refers to a structure that never came.
    pub layers: Option<FrameLayers>,
}

/// What a frame's template and its exceptions from it say.
#[derive(Debug, Clone)]
pub struct FrameLayers {
    /// The structure in force.
    pub structure: Arc<Structure>,
    /// Decode targets that the sender produces, by the newest word of it.
    pub active: u32,
    /// Spatial layer.
    pub spatial: u8,
    /// Temporal layer.
    pub temporal: u8,
    /// What it is to each decode target.
    pub indications: Indications,
    /// What it is decoded from.
    pub references: References,
    /// By chain: how far back the chain's frame before this one is; 0 for none.
    chain_links: [u8; MAX_TARGETS],
}

/// Most decode targets (5 bits), and so most chains.
const MAX_TARGETS: usize = 32;
/// Most templates (6 bits).
const MAX_TEMPLATES: usize = 64;

impl References {
    /// More than any codec has: AV1 and VP9 refer to 7 and 3 frames, and one layer below.
    const MAX: usize = 8;

    fn push(&mut self, difference: u16) -> Option<()> {
        *self.differences.get_mut(usize::from(self.count))? = difference;
        self.count += 1;
        Some(())
    }

    /// The differences.
    pub fn as_slice(&self) -> &[u16] {
        &self.differences[..usize::from(self.count)]
    }
}

impl Structure {
    /// The decode targets; a bit of a mask is an index here.
    pub fn targets(&self) -> &[DecodeTarget] {
        &self.targets
    }

    /// The chain that protects a decode target.
    pub fn chain_of(&self, target: usize) -> Option<usize> {
        self.protected_by
            .get(target)
            .map(|&chain| usize::from(chain))
    }
}

impl FrameLayers {
    /// How far back each chain's frame before this one is; 0 for none.
    pub fn chain_links(&self) -> &[u8] {
        &self.chain_links[..usize::from(self.structure.chains)]
    }
}

/// What is remembered of an encoding's descriptors between its packets.
#[derive(Debug, Default)]
pub struct DescriptorMemory {
    structure: Option<Arc<Structure>>,
    active: u32,
    /// Extended sequence number of the packet that told the active targets.
    told_by: u64,
}

impl DescriptorMemory {
    /// Reads the descriptor of the packet with this extended sequence number. None: malformed, or no structure is
    /// known yet. What it says of structure and active targets is kept for the packets that follow.
    pub fn read(&mut self, descriptor: &[u8], sequence: u64) -> Option<FrameDescription> {
        let [first, high, low, extension @ ..] = descriptor else {
            return None;
        };
        let mut frame = FrameDescription {
            starts: first & 0x80 != 0,
            ends: first & 0x40 != 0,
            number: u16::from_be_bytes([*high, *low]),
            has_structure: false,
            layers: None,
        };
        let template_id = first & 0x3f;
        let mut bits = Bits::new(extension);
        let mut flags = [false; 5];
        if !extension.is_empty() {
            for flag in &mut flags {
                *flag = bits.flag()?;
            }
        }
        let [
            brings_structure,
            tells_active,
            custom_indications,
            custom_references,
            custom_links,
        ] = flags;
        let mut brought = None;
        if brings_structure {
            let structure = read_structure(&mut bits)?;
            frame.has_structure = true;
            // The same again, in every keyframe: keep what is shared already.
            brought = Some(match &self.structure {
                Some(known) if **known == structure => Arc::clone(known),
                _ => Arc::new(structure),
            });
        }
        let structure = Arc::clone(brought.as_ref().or(self.structure.as_ref())?);
        let count = structure.targets.len() as u32;
        let all = u32::MAX >> (32 - count);
        let active = if tells_active {
            Some(bits.read(count)?)
        } else {
            brings_structure.then_some(all)
        };
        let index = usize::from(template_id.wrapping_sub(structure.id_offset) & 0x3f);
        let template = match structure.templates.get(index) {
            Some(template) => *template,
            None if brings_structure => return None,
            None => return Some(frame),
        };
        let indications = if custom_indications {
            read_indications(&mut bits, count)?
        } else {
            template.indications
        };
        let mut references = template.references;
        if custom_references {
            references = References::default();
            loop {
                let size = bits.read(2)?;
                if size == 0 {
                    break;
                }
                references.push(bits.read(4 * size)? as u16 + 1)?;
            }
        }
        let mut chain_links = template.chain_links;
        if custom_links {
            for link in chain_links.iter_mut().take(usize::from(structure.chains)) {
                *link = bits.read(8)? as u8;
            }
        }
        if let Some(active) = active
            && (sequence >= self.told_by || self.structure.is_none())
        {
            self.active = active & all;
            self.told_by = sequence;
            if let Some(brought) = brought {
                self.structure = Some(brought);
            }
        }
        frame.layers = Some(FrameLayers {
            structure,
            active: self.active & all,
            spatial: template.spatial,
            temporal: template.temporal,
            indications,
            references,
            chain_links,
        });
        Some(frame)
    }

    /// Forgets everything: the encoding begins anew.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The frame number of a descriptor, which has a fixed place.
pub fn frame_number(descriptor: &[u8]) -> Option<u16> {
    let [_, high, low, ..] = descriptor else {
        return None;
    };
    Some(u16::from_be_bytes([*high, *low]))
}

/// Adds to the frame number of a descriptor.
pub fn shift_frame_number(descriptor: &mut [u8], offset: u16) {
    if let Some(number) = frame_number(descriptor) {
        descriptor[1..3].copy_from_slice(&number.wrapping_add(offset).to_be_bytes());
    }
}

fn read_indications(bits: &mut Bits<'_>, targets: u32) -> Option<Indications> {
    let mut indications = Indications::default();
    for target in 0..targets {
        // 0 not present, 1 discardable, 2 switch, 3 required.
        let indication = bits.read(2)?;
        indications.present |= u32::from(indication != 0) << target;
        indications.switch |= u32::from(indication == 2) << target;
    }
    Some(indications)
}

fn read_structure(bits: &mut Bits<'_>) -> Option<Structure> {
    let id_offset = bits.read(6)? as u8;
    let count = bits.read(5)? + 1;
    let mut templates = Vec::new();
    let (mut spatial, mut temporal) = (0_u8, 0_u8);
    loop {
        if templates.len() >= MAX_TEMPLATES {
            return None;
        }
        templates.push(Template {
            spatial,
            temporal,
            indications: Indications::default(),
            references: References::default(),
            chain_links: [0; MAX_TARGETS],
        });
        match bits.read(2)? {
            0 => {}
            1 => temporal += 1,
            2 => (spatial, temporal) = (spatial + 1, 0),
            _ => break,
        }
        // Three bits for a temporal layer and two for a spatial one (AV1, section 5.3.3).
        if spatial > 3 || temporal > 7 {
            return None;
        }
    }
    for template in &mut templates {
        template.indications = read_indications(bits, count)?;
    }
    for template in &mut templates {
        while bits.flag()? {
            template.references.push(bits.read(4)? as u16 + 1)?;
        }
    }
    let chains = bits.read_below(count + 1)?;
    let mut protected_by = Vec::new();
    if chains > 0 {
        for _ in 0..count {
            protected_by.push(bits.read_below(chains)? as u8);
        }
        for template in &mut templates {
            for link in template.chain_links.iter_mut().take(chains as usize) {
                *link = bits.read(4)? as u8;
            }
        }
    }
    let mut targets = vec![DecodeTarget::default(); count as usize];
    for (index, target) in targets.iter_mut().enumerate() {
        for template in &templates {
            if template.indications.present >> index & 1 != 0 {
                target.spatial = target.spatial.max(template.spatial);
                target.temporal = target.temporal.max(template.temporal);
            }
        }
    }
    if bits.flag()? {
        for _ in 0..=spatial {
            bits.read(32)?;
        }
    }
    Some(Structure {
        id_offset,
        templates,
        targets,
        protected_by,
        chains: chains as u8,
    })
}

/// Bits, the highest first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn flag(&mut self) -> Option<bool> {
        let byte = *self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit != 0)
    }

    fn read(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | u32::from(self.flag()?);
        }
        Some(value)
    }

    /// ns(n) of AV1, section 4.10.7: a number below `limit`, which is not 0.
    fn read_below(&mut self, limit: u32) -> Option<u32> {
        let width = u32::BITS - limit.leading_zeros();
        let short = (1 << width) - limit;
        let value = self.read(width - 1)?;
        if value < short {
            return Some(value);
        }
        Some((value << 1) - short + self.read(1)?)
    }
}
