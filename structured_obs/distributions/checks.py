"""Checks of arguments, made while tracing: what is wrong is an error with a sentence, never a number.

They are also where low precision ends: floats of 16 bits become float32, once. Functions of a family use
the arrays that the checks return.

Letters: H W C image height, width, channels; D = H W C.
"""

import dataclasses
import itertools
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

Array = jax.Array
P = TypeVar('P')  # a family's parameters: a NamedTuple of arrays, one image


@dataclasses.dataclass(frozen=True)
class Shared(Sequence[int]):
  """Shape of an output that is one trained array, equal for all images, instead of a network's.

  It is no tuple, since Flax gives every tuple in a module the plain type.
  """

  sizes: tuple[int, ...]

  def __len__(self) -> int:
    """Returns the number of axes."""
    return len(self.sizes)

  def __getitem__(self, axis: Any) -> Any:
    """Returns the size of an axis, or a tuple of sizes for a slice."""
    return self.sizes[axis]


Shape = tuple[int, ...] | Shared


def extended(shape: Shape, size: int) -> Shape:
  """Returns the shape of an output with one more axis."""
  return Shared((*shape, size)) if isinstance(shape, Shared) else (*shape, size)


class ImageShape(NamedTuple):
  """Size of one image."""

  height: int
  width: int
  channels: int

  @property
  def size(self) -> int:
    """D = H W C."""
    return self.height * self.width * self.channels


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
  """Raises ValueError unless an option is one of the known values.

  Args:
    name: of the option.
    value: of the option.
    known: allowed values.
  """
  if value not in known:
    raise ValueError(f'{name} must be one of {", ".join(known)}; got {value!r}.')


def check_scales(family: str, min_scale: float, initial_scale: float, max_scale: float) -> None:
  """Raises ValueError unless 0 < min_scale < initial_scale < max_scale, all finite.

  Args:
    family: name, for the message.
    min_scale: smallest scale.
    initial_scale: scale at the start.
    max_scale: largest scale.
  """
  if not 0 < min_scale < initial_scale < max_scale < math.inf:
    raise ValueError(
      f'{family} needs 0 < min_scale < initial_scale < max_scale; '
      f'got {min_scale}, {initial_scale}, {max_scale}.'
    )


def positive_or_nan(value: Array) -> Array:
  """Turns every number into NaN unless all are positive and finite; keeps its derivative. Any shape."""
  return jnp.where(jnp.all((value > 0) & (value < jnp.inf)), value, jnp.nan)


def checked(params: P, **shapes: tuple[Any, ...]) -> P:
  """Returns a record of parameters as arrays of checked shapes; raises as `as_arrays`, `check_shape` do.

  Args:
    params: with a field `mean`, the image.
    shapes: of the other fields by name; `...` stands for the shape of the mean, None for any size.
  """
  fields: Any = as_arrays(params, ('mean', *shapes))
  image = fields.mean.shape
  check_shape('mean', fields.mean, (None, None, None))
  for name, shape in shapes.items():
    whole = (image if size is ... else (size,) for size in shape)
    check_shape(name, getattr(fields, name), tuple(itertools.chain(*whole)))
  return fields


def as_arrays(params: P, fields: tuple[str, ...] | None = None) -> P:
  """Returns a record of parameters with Python numbers and NumPy arrays converted to arrays.

  Numbers take the type of the first field. Arrays of 16 bits become float32 (`upcast`).

  Args:
    params: of one image.
    fields: those that the record must have; None for any.

  Raises:
    TypeError: it has other fields, as parameters of another family do.
  """
  record: Any = params
  if fields is not None:
    check_fields(params, fields)
  for name, value in zip(record._fields, record, strict=True):
    _check_array(name, value)
  dtype = upcast(record[0]).dtype
  return type(record)(
    *(jnp.asarray(a, dtype) if isinstance(a, int | float) else upcast(a) for a in record)
  )


def check_fields(params: Any, fields: tuple[str, ...]) -> None:
  """Raises TypeError unless parameters are a record with these fields, as those of a family are."""
  known = getattr(params, '_fields', ())
  if set(known) != set(fields):
    of = f' with the fields {", ".join(known)}' if known else ''
    raise TypeError(
      f'This family needs parameters with the fields {", ".join(fields)}; got '
      f'{type(params).__name__}{of}. Are they of another family?'
    )


def image_shape(image: Sequence[int]) -> ImageShape:
  """Returns the size of an image, given as an `ImageShape` or any three numbers.

  Args:
    image: height, width, channels.

  Raises:
    TypeError, ValueError: unless they are three whole numbers of at least 1.
  """
  if isinstance(image, str | Mapping) or not isinstance(image, Sequence) or len(image) != 3:
    raise TypeError(f'An image shape is (height, width, channels); got {image!r}.')
  for name, size in zip(ImageShape._fields, image, strict=True):
    check_count(name, size, 1, 2**31 - 1, 'the largest int32')
  return ImageShape(*(int(size) for size in image))


def upcast(array: Any) -> Array:
  """Returns floats of 16 bits or fewer as float32, and any other array as it is. Any shape."""
  _check_array('An argument', array)
  array = jnp.asarray(array)
  low = jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4
  return array.astype(jnp.float32) if low else array


def check_shape(name: str, array: Array, shape: Sequence[int | None]) -> Array:
  """Raises at trace time unless a floating-point array has this shape (None: any size).

  This is the boundary at which low precision ends: use the array that it returns.

  Args:
    name: of the argument, for the message.
    array: of any type.
    shape: wanted sizes.

  Returns:
    The array, `upcast`.

  Raises:
    TypeError: it is not an array, or not of a floating-point type.
    ValueError: the shape differs.
  """
  _check_array(name, array)
  if not jnp.issubdtype(jnp.result_type(array), jnp.floating):
    raise TypeError(
      f'{name} must be a floating-point array; got {jnp.result_type(array)}. '
      'Scale integer images to floats first, e.g. with data.pixels.to_unit.'
    )
  got = jnp.shape(array)
  fits = len(got) == len(shape) and all(w in (None, g) for g, w in zip(got, shape, strict=True))
  if not fits:
    wanted = tuple('any' if size is None else size for size in shape)
    raise ValueError(
      f'{name} must have shape {wanted}; got {got}. Functions of a distribution take one image: '
      'map them over a batch with jax.vmap, or let distributions.Distribution do so.'
    )
  return upcast(array)


def _check_array(name: str, value: Any) -> None:
  if value is None or isinstance(value, list | tuple | str | dict):
    raise TypeError(f'{name} must be an array; got {type(value).__name__}.')


def check_mask(name: str, mask: Array, shape: tuple[int, ...]) -> None:
  """Raises at trace time unless a mask is boolean and of this shape (TypeError, ValueError).

  Args:
    name: of the argument, for the message.
    mask: of any type.
    shape: wanted sizes.
  """
  _check_array(name, mask)
  if not jnp.issubdtype(jnp.result_type(mask), jnp.bool_):
    raise TypeError(f'{name} must be a boolean array; got {jnp.result_type(mask)}.')
  if jnp.shape(mask) != shape:
    raise ValueError(f'{name} must have shape {shape}; got {jnp.shape(mask)}.')


def check_count(name: str, value: int, least: int, most: int, of: str) -> None:
  """Raises at trace time unless a number is whole and from `least` to `most`, described by `of`.

  Args:
    name: of the argument, for the message.
    value: to check.
    least: smallest allowed value.
    most: largest allowed value.
    of: what the largest value is, for the message.

  Raises:
    TypeError: it is not a whole number, or a bool.
    ValueError: it is out of range.
  """
  if isinstance(value, bool) or not isinstance(value, numbers.Integral):
    raise TypeError(f'{name} must be a whole number; got {value!r}.')
  if not least <= value <= most:
    raise ValueError(f'{name} must be from {least} to {of}, {most}; got {value}.')


def check_outputs(outputs: dict[str, Array], shapes: dict[str, Shape]) -> dict[str, Array]:
  """Raises ValueError or TypeError unless outputs are exactly those that a family asks for.

  Returns them, `upcast`.
  """
  check_names(outputs)
  if set(outputs) != set(shapes):
    raise ValueError(f'from_outputs needs the outputs {sorted(shapes)}; got {sorted(outputs)}.')
  return {name: check_shape(f'The output {name!r}', outputs[name], shapes[name]) for name in shapes}


def check_names(outputs: Any) -> None:
  """Raises TypeError unless outputs are a mapping, by their names."""
  if not isinstance(outputs, Mapping):
    raise TypeError(f'from_outputs needs arrays by their names; got {type(outputs).__name__}.')


def image_of_outputs(outputs: dict[str, Array]) -> ImageShape:
  """Returns the size of the image whose mean is among a decoder's outputs.

  Raises:
    ValueError, TypeError: there is no mean, or it is not an image.
  """
  check_names(outputs)
  if 'mean' not in outputs:
    raise ValueError(f"from_outputs needs the output 'mean'; got {sorted(outputs)}.")
  check_shape("The output 'mean'", outputs['mean'], (None, None, None))
  return ImageShape(*jnp.shape(outputs['mean']))


def checked_noise_variance(noise_variance: Array | float, like: Array) -> Array:
  """Returns the variance of added noise, [] or of the shape of an image, in its type.

  NaN unless all are >= 0.

  Infinite is allowed: at a pixel that was not observed.
  """
  noise_variance = _as_type_of(like, 'noise_variance', noise_variance)
  check_shape('noise_variance', noise_variance, like.shape if noise_variance.ndim else ())
  return jnp.where(jnp.all(noise_variance >= 0), noise_variance, jnp.nan)


def checked_temperature(temperature: Array | float, like: Array) -> Array:
  """Returns the temperature in the type of an image, NaN unless it is positive and finite. []."""
  temperature = _as_type_of(like, 'temperature', temperature)
  return positive_or_nan(check_shape('temperature', temperature, ()))


def _as_type_of(like: Array, name: str, value: Array | float) -> Array:
  _check_array(name, value)
  if jnp.iscomplexobj(value):
    raise TypeError(f'{name} must be real; got {jnp.result_type(value)}.')
  return jnp.asarray(value, like.dtype)
