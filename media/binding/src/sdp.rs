//! SDP values for Python. All are frozen: a getter gives a fresh list, changing it changes nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use mediacore_sdp::{
    Cache, Codec, Description, Direction, Group, Kind, Msid, Rid, RidDirection, Section,
    SectionFields, Setup, Ssrc,
};
use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

create_exception!(
    _native,
    SdpError,
    PyValueError,
    "A description or a value cannot be used; says line and reason."
);

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<SdpCodec>()?;
    module.add_class::<SdpRid>()?;
    module.add_class::<SdpSsrcGroup>()?;
    module.add_class::<MediaSection>()?;
    module.add_class::<SessionDescription>()?;
    module.add_class::<SdpCache>()?;
    module.add("SdpError", module.py().get_type::<SdpError>())
}

fn refused(error: mediacore_sdp::SdpError) -> PyErr {
    SdpError::new_err(error.to_string())
}

/// A word of a closed set, or ValueError naming the argument.
fn choice<T>(name: &str, word: &str, read: impl Fn(&str) -> Option<T>) -> PyResult<T> {
    read(word).ok_or_else(|| SdpError::new_err(format!("{name} cannot be {word:?}")))
}

fn rid_direction(word: &str) -> Option<RidDirection> {
    match word {
        "send" => Some(RidDirection::Send),
        "recv" => Some(RidDirection::Recv),
        _ => None,
    }
}

fn section_kind(word: &str) -> Option<Kind> {
    match word {
        "audio" => Some(Kind::Audio),
        "video" => Some(Kind::Video),
        "application" => Some(Kind::Application),
        _ => None,
    }
}

#[pyclass(frozen, eq, module = "mediacore")]
#[derive(Clone, PartialEq)]
struct SdpCodec(Codec);

#[pymethods]
impl SdpCodec {
    #[new]
    #[pyo3(signature = (payload_type, name, clock_rate, channels=None, fmtp=String::new(), feedback=vec![]),
        text_signature = "(payload_type, name, clock_rate, channels=None, fmtp='', feedback=())")]
    fn new(
        payload_type: u8,
        name: String,
        clock_rate: u32,
        channels: Option<u16>,
        fmtp: String,
        feedback: Vec<String>,
    ) -> Self {
        Self(Codec {
            payload_type,
            name,
            clock_rate,
            channels,
            fmtp,
            feedback,
        })
    }

    #[getter]
    fn payload_type(&self) -> u8 {
        self.0.payload_type
    }

    #[getter]
    fn name(&self) -> &str {
        &self.0.name
    }

    #[getter]
    fn clock_rate(&self) -> u32 {
        self.0.clock_rate
    }

    #[getter]
    fn channels(&self) -> Option<u16> {
        self.0.channels
    }

    #[getter]
    fn fmtp(&self) -> &str {
        &self.0.fmtp
    }

    #[getter]
    fn feedback(&self) -> Vec<&str> {
        self.0.feedback.iter().map(String::as_str).collect()
    }

    fn __repr__(&self) -> String {
        format!(
            "SdpCodec({} {}/{})",
            self.0.payload_type, self.0.name, self.0.clock_rate
        )
    }
}

#[pyclass(frozen, eq, module = "mediacore")]
#[derive(Clone, PartialEq)]
struct SdpRid(Rid);

#[pymethods]
impl SdpRid {
    #[new]
    #[pyo3(signature = (id, direction, paused=false))]
    fn new(id: String, direction: &str, paused: bool) -> PyResult<Self> {
        Ok(Self(Rid {
            id,
            direction: choice("direction", direction, rid_direction)?,
            paused,
        }))
    }

    #[getter]
    fn id(&self) -> &str {
        &self.0.id
    }

    #[getter]
    fn direction(&self) -> &'static str {
        self.0.direction.as_str()
    }

    #[getter]
    fn paused(&self) -> bool {
        self.0.paused
    }
}

#[pyclass(frozen, eq, module = "mediacore")]
#[derive(Clone, PartialEq)]
struct SdpSsrcGroup(Group);

#[pymethods]
impl SdpSsrcGroup {
    #[new]
    fn new(semantics: String, ssrcs: Vec<u32>) -> Self {
        Self(Group { semantics, ssrcs })
    }

    #[getter]
    fn semantics(&self) -> &str {
        &self.0.semantics
    }

    #[getter]
    fn ssrcs(&self) -> Vec<u32> {
        self.0.ssrcs.clone()
    }
}

#[pyclass(frozen, module = "mediacore")]
struct MediaSection(Arc<Section>);

#[pymethods]
impl MediaSection {
    #[new]
    #[pyo3(signature = (
        kind, mid, direction="inactive", rejected=false, codecs=vec![], extensions=vec![], msid=None, ssrcs=vec![],
        ssrc_groups=vec![], rids=vec![], simulcast_send=vec![], simulcast_recv=vec![], candidates=vec![],
        end_of_candidates=false, ice_ufrag=None, ice_pwd=None, fingerprint=None, setup=None, sctp_port=None,
        max_message_size=None
    ), text_signature = "(kind, mid, direction='inactive', rejected=False, codecs=(), extensions=(), msid=None, \
        ssrcs=(), ssrc_groups=(), rids=(), simulcast_send=(), simulcast_recv=(), candidates=(), \
        end_of_candidates=False, ice_ufrag=None, ice_pwd=None, fingerprint=None, setup=None, sctp_port=None, \
        max_message_size=None)")]
    #[expect(
        clippy::too_many_arguments,
        reason = "the Python face is keywords with defaults"
    )]
    fn new(
        kind: &str,
        mid: String,
        direction: &str,
        rejected: bool,
        codecs: Vec<PyRef<'_, SdpCodec>>,
        extensions: Vec<(u16, String)>,
        msid: Option<(String, String)>,
        ssrcs: Vec<(u32, String)>,
        ssrc_groups: Vec<PyRef<'_, SdpSsrcGroup>>,
        rids: Vec<PyRef<'_, SdpRid>>,
        simulcast_send: Vec<String>,
        simulcast_recv: Vec<String>,
        candidates: Vec<String>,
        end_of_candidates: bool,
        ice_ufrag: Option<String>,
        ice_pwd: Option<String>,
        fingerprint: Option<String>,
        setup: Option<&str>,
        sctp_port: Option<u16>,
        max_message_size: Option<u64>,
    ) -> PyResult<Self> {
        let fields = SectionFields {
            kind: choice("kind", kind, section_kind)?,
            mid,
            rejected,
            direction: choice("direction", direction, Direction::from_name)?,
            codecs: codecs.iter().map(|codec| codec.0.clone()).collect(),
            extensions,
            msid: msid.map(|(stream, track)| Msid { stream, track }),
            ssrcs: ssrcs
                .into_iter()
                .map(|(ssrc, cname)| Ssrc { ssrc, cname })
                .collect(),
            ssrc_groups: ssrc_groups.iter().map(|group| group.0.clone()).collect(),
            rids: rids.iter().map(|rid| rid.0.clone()).collect(),
            simulcast_send,
            simulcast_recv,
            candidates,
            end_of_candidates,
            ice_ufrag,
            ice_pwd,
            fingerprint,
            setup: setup
                .map(|setup| choice("setup", setup, Setup::from_name))
                .transpose()?,
            sctp_port,
            max_message_size,
        };
        Ok(Self(Arc::new(Section::new(fields).map_err(refused)?)))
    }

    #[getter]
    fn kind(&self) -> &'static str {
        self.0.kind.as_str()
    }

    #[getter]
    fn mid(&self) -> &str {
        &self.0.mid
    }

    #[getter]
    fn rejected(&self) -> bool {
        self.0.rejected
    }

    #[getter]
    fn direction(&self) -> &'static str {
        self.0.direction.as_str()
    }

    #[getter]
    fn codecs(&self) -> Vec<SdpCodec> {
        self.0.codecs.iter().cloned().map(SdpCodec).collect()
    }

    #[getter]
    fn extensions(&self) -> Vec<(u16, &str)> {
        self.0
            .extensions
            .iter()
            .map(|(id, uri)| (*id, uri.as_str()))
            .collect()
    }

    #[getter]
    fn msid(&self) -> Option<(&str, &str)> {
        self.0
            .msid
            .as_ref()
            .map(|msid| (msid.stream.as_str(), msid.track.as_str()))
    }

    #[getter]
    fn ssrcs(&self) -> Vec<(u32, &str)> {
        self.0
            .ssrcs
            .iter()
            .map(|source| (source.ssrc, source.cname.as_str()))
            .collect()
    }

    #[getter]
    fn ssrc_groups(&self) -> Vec<SdpSsrcGroup> {
        self.0
            .ssrc_groups
            .iter()
            .cloned()
            .map(SdpSsrcGroup)
            .collect()
    }

    #[getter]
    fn rids(&self) -> Vec<SdpRid> {
        self.0.rids.iter().cloned().map(SdpRid).collect()
    }

    #[getter]
    fn simulcast_send(&self) -> Vec<&str> {
        self.0.simulcast_send.iter().map(String::as_str).collect()
    }

    #[getter]
    fn simulcast_recv(&self) -> Vec<&str> {
        self.0.simulcast_recv.iter().map(String::as_str).collect()
    }

    #[getter]
    fn candidates(&self) -> Vec<&str> {
        self.0.candidates.iter().map(String::as_str).collect()
    }

    #[getter]
    fn end_of_candidates(&self) -> bool {
        self.0.end_of_candidates
    }

    #[getter]
    fn ice_ufrag(&self) -> Option<&str> {
        self.0.ice_ufrag.as_deref()
    }

    #[getter]
    fn ice_pwd(&self) -> Option<&str> {
        self.0.ice_pwd.as_deref()
    }

    #[getter]
    fn fingerprint(&self) -> Option<&str> {
        self.0.fingerprint.as_deref()
    }

    #[getter]
    fn setup(&self) -> Option<&'static str> {
        self.0.setup.map(Setup::as_str)
    }

    #[getter]
    fn sctp_port(&self) -> Option<u16> {
        self.0.sctp_port
    }

    #[getter]
    fn max_message_size(&self) -> Option<u64> {
        self.0.max_message_size
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| {
            let other = &other.get().0;
            Arc::ptr_eq(&self.0, other) || self.0 == *other
        })
    }

    fn __repr__(&self) -> String {
        format!(
            "MediaSection({} mid={:?} {})",
            self.kind(),
            self.0.mid,
            self.direction()
        )
    }
}

#[pyclass(frozen, module = "mediacore")]
struct SessionDescription {
    value: Description,
    /// One object a section, the same as in the description before when its text is the same.
    sections: Vec<Py<MediaSection>>,
}

#[pymethods]
impl SessionDescription {
    #[new]
    #[pyo3(signature = (
        session_id, session_version, sections, ice_lite=false, fingerprint=None, extmap_allow_mixed=true, bundle=None
    ))]
    fn new(
        session_id: u64,
        session_version: u64,
        sections: Vec<Py<MediaSection>>,
        ice_lite: bool,
        fingerprint: Option<String>,
        extmap_allow_mixed: bool,
        bundle: Option<Vec<String>>,
    ) -> PyResult<Self> {
        let parts = sections
            .iter()
            .map(|section| Arc::clone(&section.get().0))
            .collect();
        let mut value = Description::new(session_id, session_version, parts);
        value.ice_lite = ice_lite;
        value.fingerprint = fingerprint;
        value.extmap_allow_mixed = extmap_allow_mixed;
        if let Some(bundle) = bundle {
            value.bundle = bundle;
        }
        value.check().map_err(refused)?;
        Ok(Self { value, sections })
    }

    #[getter]
    fn session_id(&self) -> u64 {
        self.value.session_id
    }

    #[getter]
    fn session_version(&self) -> u64 {
        self.value.session_version
    }

    #[getter]
    fn sections(&self, py: Python<'_>) -> Vec<Py<MediaSection>> {
        self.sections
            .iter()
            .map(|section| section.clone_ref(py))
            .collect()
    }

    #[getter]
    fn ice_lite(&self) -> bool {
        self.value.ice_lite
    }

    #[getter]
    fn extmap_allow_mixed(&self) -> bool {
        self.value.extmap_allow_mixed
    }

    #[getter]
    fn bundle(&self) -> Vec<&str> {
        self.value.bundle.iter().map(String::as_str).collect()
    }

    #[getter]
    fn ice_ufrag(&self) -> Option<&str> {
        self.value.first_ice_ufrag()
    }

    #[getter]
    fn ice_pwd(&self) -> Option<&str> {
        self.value.first_ice_pwd()
    }

    #[getter]
    fn fingerprint(&self) -> Option<&str> {
        self.value.first_fingerprint()
    }

    #[getter]
    fn setup(&self) -> Option<&'static str> {
        self.value.first_setup().map(Setup::as_str)
    }

    fn render(&self) -> String {
        self.value.render()
    }
}

#[pyclass(frozen, module = "mediacore")]
struct SdpCache(Mutex<Remembered>);

#[derive(Default)]
struct Remembered {
    cache: Cache,
    /// Python objects of the last description's sections, by the section's address (kept alive by the object).
    objects: HashMap<usize, Py<MediaSection>>,
}

#[pymethods]
impl SdpCache {
    #[new]
    fn new() -> Self {
        Self(Mutex::new(Remembered::default()))
    }

    fn parse(&self, py: Python<'_>, text: &str) -> PyResult<SessionDescription> {
        // A panic while parsing would leave an older cache, which is still right.
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let value = remembered.cache.parse(text).map_err(refused)?;
        let mut objects = HashMap::with_capacity(value.sections.len());
        let mut sections = Vec::with_capacity(value.sections.len());
        for section in &value.sections {
            let address = Arc::as_ptr(section) as usize;
            let object = match remembered.objects.get(&address) {
                Some(object) => object.clone_ref(py),
                None => Py::new(py, MediaSection(Arc::clone(section)))?,
            };
            objects.insert(address, object.clone_ref(py));
            sections.push(object);
        }
        remembered.objects = objects;
        Ok(SessionDescription { value, sections })
    }
}
