//! How the classes print themselves: `Name(field=value, ...)`, values as Python writes them.

use pyo3::prelude::*;

/// Prints an object by its attributes.
pub(crate) fn by_attributes(object: &Bound<'_, PyAny>, fields: &[&str]) -> PyResult<String> {
    let mut text = object.get_type().name()?.to_string();
    text.push('(');
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        text.push_str(field);
        text.push('=');
        text.push_str(&object.getattr(*field)?.repr()?.to_string());
    }
    text.push(')');
    Ok(text)
}

/// Declares a read-only class whose attributes are its fields.
macro_rules! value_class {
    ($(#[$meta:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? }) => {
        $(#[$meta])*
        #[pyo3::pyclass(frozen, get_all, module = "mediacore._native")]
        pub(crate) struct $name {
            $(pub(crate) $field: $kind,)*
        }

        #[pyo3::pymethods]
        impl $name {
            fn __repr__(slf: &pyo3::Bound<'_, Self>) -> pyo3::PyResult<String> {
                $crate::repr::by_attributes(slf.as_any(), &[$(stringify!($field)),*])
            }
        }
    };
}

pub(crate) use value_class;
