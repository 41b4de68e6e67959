"""The recipe of trajseg-tiny: stages that each teach one part."""
