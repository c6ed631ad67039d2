"""The simulated world. It knows neither the model nor the page."""

from sim.rendering import select_driver

select_driver()
